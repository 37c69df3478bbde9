"""Secrets of tenants, sealed. What requests may read of them is everything but the content.

Those of the kind ``webhook`` sign what is sent to webhooks. The service makes them, and they belong
to their webhooks: tenants neither list, nor set, nor delete them here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.ids import new_id
from services.secrets.envelope import Envelope, SecretPlace
from services.store import tenants
from services.store.database import Connection, columns_of

MOST_SECRETS: Final = 50
"""Of one tenant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """One row of ``secrets`` without its content."""

    secret_id: str
    tenant_id: str
    name: str
    kind: str
    """``hub``, ``s3`` or ``wandb``."""
    version: int
    """+1 at each new value."""
    warning: str | None
    """What a use has found out; None where that is nothing."""
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    """Of this version."""


_OF_NAME: Final = SQL("""
SELECT {columns} FROM secrets WHERE tenant_id = %s AND name = %s AND kind <> 'webhook'
""").format(columns=columns_of(Secret))
_COUNT: Final = "SELECT count(*) FROM secrets WHERE tenant_id = %s AND kind <> 'webhook'"
_INSERT: Final = SQL("""
INSERT INTO secrets (secret_id, tenant_id, name, kind, version, key_id, sealed_key, ciphertext)
VALUES (%(secret_id)s, %(tenant_id)s, %(name)s, %(kind)s, %(version)s, %(key_id)s,
    %(sealed_key)s, %(ciphertext)s)
RETURNING {columns}
""").format(columns=columns_of(Secret))
_REPLACE: Final = SQL("""
UPDATE secrets SET kind = %(kind)s, version = %(version)s, key_id = %(key_id)s,
    sealed_key = %(sealed_key)s, ciphertext = %(ciphertext)s, warning = NULL,
    last_used_at = NULL, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND secret_id = %(secret_id)s
RETURNING {columns}
""").format(columns=columns_of(Secret))


def put(
    conn: Connection,
    tenant_id: str,
    name: str,
    kind: str,
    seal: Callable[[SecretPlace], Envelope],
) -> tuple[Secret, bool]:
    """Store a value in place of the one of this name, if any; whether the name is new.

    Raises InvalidRequestError where the tenant has MOST_SECRETS already.
    """
    tenants.lock(conn, tenant_id)
    known = _find(conn, tenant_id, name)
    if known is None:
        _check_number(conn, tenant_id)
    place = SecretPlace(
        tenant_id=tenant_id,
        secret_id=new_id("sec") if known is None else known.secret_id,
        name=name,
        kind=kind,
        version=1 if known is None else known.version + 1,
    )
    facts = {
        "secret_id": place.secret_id,
        "tenant_id": tenant_id,
        "name": name,
        "kind": kind,
        "version": place.version,
        **_content(seal(place)),
    }
    with conn.cursor(row_factory=class_row(Secret)) as cursor:
        stored = cursor.execute(_INSERT if known is None else _REPLACE, facts).fetchone()
    assert stored is not None
    return stored, known is None


def _find(conn: Connection, tenant_id: str, name: str) -> Secret | None:
    with conn.cursor(row_factory=class_row(Secret)) as cursor:
        return cursor.execute(_OF_NAME, (tenant_id, name)).fetchone()


def _check_number(conn: Connection, tenant_id: str) -> None:
    row = conn.execute(_COUNT, (tenant_id,)).fetchone()
    assert row is not None
    if row[0] >= MOST_SECRETS:
        message = f"A tenant has {MOST_SECRETS} secrets at most: delete one that nothing uses."
        raise InvalidRequestError([Problem(pointer="", code="too_many", message=message)])


def _content(envelope: Envelope) -> dict[str, str | bytes]:
    return {
        "key_id": envelope.key_id,
        "sealed_key": envelope.sealed_key,
        "ciphertext": envelope.ciphertext,
    }


def get(conn: Connection, tenant_id: str, name: str) -> Secret:
    """Raises NotFoundError."""
    found = _find(conn, tenant_id, name)
    if found is None:
        raise NotFoundError("secret", name)
    return found


_LIST: Final = SQL("""
SELECT {columns} FROM secrets
WHERE tenant_id = %(tenant_id)s AND kind <> 'webhook'
    AND (%(after)s::text IS NULL OR secret_id < %(after)s)
ORDER BY secret_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Secret))


def list_page(
    conn: Connection, tenant_id: str, limit: int, after: str | None = None
) -> list[Secret]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after}
    with conn.cursor(row_factory=class_row(Secret)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_NAMES: Final = "SELECT name FROM secrets WHERE tenant_id = %s AND kind = %s ORDER BY name"


def names(conn: Connection, tenant_id: str, kind: str) -> list[str]:
    """The names of the tenant's secrets of one kind."""
    return [row[0] for row in conn.execute(_NAMES, (tenant_id, kind))]


_DELETE: Final = """
DELETE FROM secrets WHERE tenant_id = %s AND name = %s AND kind <> 'webhook' RETURNING secret_id
"""


def delete(conn: Connection, tenant_id: str, name: str) -> str:
    """Delete the secret with its content and return its id. Raises NotFoundError."""
    row = conn.execute(_DELETE, (tenant_id, name)).fetchone()
    if row is None:
        raise NotFoundError("secret", name)
    return str(row[0])


def add_signing_secret(
    conn: Connection, tenant_id: str, webhook_id: str, seal: Callable[[SecretPlace], Envelope]
) -> str:
    """Store a new secret that signs for a webhook; returns its id."""
    secret_id = new_id("sec")
    place = SecretPlace(
        tenant_id=tenant_id,
        secret_id=secret_id,
        name=f"{webhook_id} {secret_id}",  # a webhook has two for a while
        kind="webhook",
        version=1,
    )
    facts = {
        "secret_id": secret_id,
        "tenant_id": tenant_id,
        "name": place.name,
        "kind": place.kind,
        "version": place.version,
        **_content(seal(place)),
    }
    conn.execute(_INSERT, facts)
    return secret_id


_DELETE_SIGNING: Final = """
DELETE FROM secrets WHERE tenant_id = %s AND secret_id = ANY(%s) AND kind = 'webhook'
"""


def delete_signing_secrets(conn: Connection, tenant_id: str, secret_ids: Sequence[str]) -> None:
    """Delete secrets that sign for no webhook any more."""
    conn.execute(_DELETE_SIGNING, (tenant_id, list(secret_ids)))
