"""Webhooks of tenants: made, changed, disabled, deleted; their signing secrets are sealed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL, Composed

from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.ids import new_id
from services.domain.webhooks import MOST_WEBHOOKS
from services.secrets.envelope import Envelope, SecretPlace
from services.store import secrets, tenants
from services.store.database import Connection, columns_of, seconds

Seal = Callable[[SecretPlace], Envelope]


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """One row of ``webhooks``."""

    webhook_id: str
    tenant_id: str
    url: str
    events: list[str] | None
    """Types of the events that it is for; None: all."""
    secret_id: str
    old_secret_id: str | None
    old_secret_expires_at: datetime | None
    """Until then the old secret signs beside the new one."""
    first_failed_at: datetime | None
    """Of the tries since the newest good answer; None where the newest one was good."""
    disabled_at: datetime | None
    disabled_reason: str | None
    """``requested``, ``gone`` (it answered 410) or ``failing`` (for three days)."""
    version: int
    created_at: datetime
    updated_at: datetime


_COUNT: Final = "SELECT count(*) FROM webhooks WHERE tenant_id = %s AND deleted_at IS NULL"
_INSERT: Final = SQL("""
INSERT INTO webhooks (webhook_id, tenant_id, url, events, secret_id)
VALUES (%(webhook_id)s, %(tenant_id)s, %(url)s, %(events)s, %(secret_id)s)
RETURNING {columns}
""").format(columns=columns_of(Webhook))


def create(
    conn: Connection, tenant_id: str, *, url: str, events: Sequence[str] | None, seal: Seal
) -> Webhook:
    """A new webhook with its signing secret.

    Raises InvalidRequestError where the tenant has MOST_WEBHOOKS already.
    """
    tenants.lock(conn, tenant_id)
    row = conn.execute(_COUNT, (tenant_id,)).fetchone()
    if row is not None and row[0] >= MOST_WEBHOOKS:
        message = f"A tenant has {MOST_WEBHOOKS} webhooks at most: delete one."
        raise InvalidRequestError([Problem(pointer="", code="too_many", message=message)])
    webhook_id = new_id("wh")
    facts = {
        "webhook_id": webhook_id,
        "tenant_id": tenant_id,
        "url": url,
        "events": None if events is None else list(events),
        "secret_id": secrets.add_signing_secret(conn, tenant_id, webhook_id, seal),
    }
    with conn.cursor(row_factory=class_row(Webhook)) as cursor:
        webhook = cursor.execute(_INSERT, facts).fetchone()
    assert webhook is not None
    return webhook


_GET: Final = SQL("""
SELECT {columns} FROM webhooks WHERE tenant_id = %s AND webhook_id = %s AND deleted_at IS NULL
""").format(columns=columns_of(Webhook))
_LOCK: Final = SQL("{get} FOR UPDATE").format(get=_GET)


def get(conn: Connection, tenant_id: str, webhook_id: str) -> Webhook:
    """Raises NotFoundError."""
    return _one(conn, _GET, tenant_id, webhook_id)


def lock(conn: Connection, tenant_id: str, webhook_id: str) -> Webhook:
    """The webhook, locked until the transaction ends. Raises NotFoundError."""
    return _one(conn, _LOCK, tenant_id, webhook_id)


def _one(conn: Connection, query: Composed, tenant_id: str, webhook_id: str) -> Webhook:
    with conn.cursor(row_factory=class_row(Webhook)) as cursor:
        webhook = cursor.execute(query, (tenant_id, webhook_id)).fetchone()
    if webhook is None:
        raise NotFoundError("webhook", webhook_id)
    return webhook


_LIST: Final = SQL("""
SELECT {columns} FROM webhooks
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
    AND (%(after)s::text IS NULL OR webhook_id < %(after)s)
ORDER BY webhook_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Webhook))


def list_page(
    conn: Connection, tenant_id: str, limit: int, after: str | None = None
) -> list[Webhook]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after}
    with conn.cursor(row_factory=class_row(Webhook)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_CHANGE: Final = SQL("""
UPDATE webhooks SET url = %(url)s, events = %(events)s,
    disabled_at = CASE WHEN %(enabled)s THEN NULL ELSE coalesce(disabled_at, clock_timestamp()) END,
    disabled_reason = CASE WHEN %(enabled)s THEN NULL ELSE coalesce(disabled_reason, 'requested')
        END,
    first_failed_at = CASE WHEN %(enabled)s AND disabled_at IS NOT NULL THEN NULL
        ELSE first_failed_at END,
    version = version + 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND webhook_id = %(webhook_id)s
RETURNING {columns}
""").format(columns=columns_of(Webhook))


def change(
    conn: Connection, webhook: Webhook, *, url: str, events: Sequence[str] | None, enabled: bool
) -> Webhook:
    """Set what it is to be from now on; one that is enabled again sends what waits for it."""
    facts = {
        "tenant_id": webhook.tenant_id,
        "webhook_id": webhook.webhook_id,
        "url": url,
        "events": None if events is None else list(events),
        "enabled": enabled,
    }
    with conn.cursor(row_factory=class_row(Webhook)) as cursor:
        changed = cursor.execute(_CHANGE, facts).fetchone()
    assert changed is not None
    return changed


_ROTATE: Final = SQL("""
UPDATE webhooks SET secret_id = %(secret_id)s, old_secret_id = secret_id,
    old_secret_expires_at = clock_timestamp() + make_interval(secs => %(grace_s)s),
    version = version + 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND webhook_id = %(webhook_id)s
RETURNING {columns}
""").format(columns=columns_of(Webhook))


def rotate_secret(conn: Connection, webhook: Webhook, seal: Seal, *, grace: timedelta) -> Webhook:
    """Let a new secret sign, and for a while the one before, too; an older one goes at once."""
    secret_id = secrets.add_signing_secret(conn, webhook.tenant_id, webhook.webhook_id, seal)
    facts = {
        "tenant_id": webhook.tenant_id,
        "webhook_id": webhook.webhook_id,
        "secret_id": secret_id,
        "grace_s": seconds(grace),
    }
    with conn.cursor(row_factory=class_row(Webhook)) as cursor:
        rotated = cursor.execute(_ROTATE, facts).fetchone()
    assert rotated is not None
    if webhook.old_secret_id is not None:
        secrets.delete_signing_secrets(conn, webhook.tenant_id, [webhook.old_secret_id])
    return rotated


# Its deliveries are deleted by retention, and the row with them.
_DELETE: Final = """
UPDATE webhooks SET deleted_at = clock_timestamp(), secret_id = NULL, old_secret_id = NULL
WHERE tenant_id = %s AND webhook_id = %s
"""


def delete(conn: Connection, webhook: Webhook) -> None:
    """Nothing is sent any more, and nobody sees it; its secrets are deleted."""
    conn.execute(_DELETE, (webhook.tenant_id, webhook.webhook_id))
    known = [webhook.secret_id, webhook.old_secret_id]
    secrets.delete_signing_secrets(conn, webhook.tenant_id, [each for each in known if each])
