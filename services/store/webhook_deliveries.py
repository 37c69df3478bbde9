"""Deliveries of events to webhooks, as their tenants see them; also asked for once more."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.errors import NotFoundError
from services.domain.ids import new_id
from services.domain.webhooks import TEST_EVENT
from services.store.database import Connection, columns_of
from services.store.webhook_events import PAYLOAD
from services.store.webhooks import Webhook


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One row of ``webhook_deliveries``."""

    delivery_id: str
    tenant_id: str
    webhook_id: str
    event_id: str
    """The ``webhook-id`` of every try."""
    type: str
    payload: dict[str, Any]
    status: str
    """``pending``, ``succeeded`` or ``failed``."""
    attempts: int
    status_code: int | None
    """Of the newest answer, as ``reply``; None where there was none."""
    error: str | None
    """Why there was none."""
    reply: str | None
    due_at: datetime | None
    """Of the next try; None where there is none."""
    created_at: datetime
    updated_at: datetime


_INSERT: Final = SQL("""
INSERT INTO webhook_deliveries (delivery_id, tenant_id, webhook_id, event_id, type, payload)
VALUES (%(delivery_id)s, %(tenant_id)s, %(webhook_id)s, %(event_id)s, %(type)s, {payload})
RETURNING {columns}
""").format(payload=PAYLOAD, columns=columns_of(Delivery))


def test(conn: Connection, webhook: Webhook) -> Delivery:
    """Have an event sent that tells nothing."""
    data = {"webhook_id": webhook.webhook_id, "version": webhook.version}
    facts = {
        "delivery_id": new_id("whd"),
        "tenant_id": webhook.tenant_id,
        "webhook_id": webhook.webhook_id,
        "event_id": new_id("evt"),
        "type": TEST_EVENT,
        "data": json.dumps(data),
    }
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        delivery = cursor.execute(_INSERT, facts).fetchone()
    assert delivery is not None
    return delivery


_GET: Final = SQL("""
SELECT {columns} FROM webhook_deliveries
WHERE tenant_id = %s AND webhook_id = %s AND delivery_id = %s
""").format(columns=columns_of(Delivery))


def get(conn: Connection, tenant_id: str, webhook_id: str, delivery_id: str) -> Delivery:
    """Raises NotFoundError."""
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        delivery = cursor.execute(_GET, (tenant_id, webhook_id, delivery_id)).fetchone()
    if delivery is None:
        raise NotFoundError("delivery", delivery_id)
    return delivery


_LIST: Final = SQL("""
SELECT {columns} FROM webhook_deliveries
WHERE tenant_id = %(tenant_id)s AND webhook_id = %(webhook_id)s
    AND (%(after)s::text IS NULL OR delivery_id < %(after)s)
    AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY delivery_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Delivery))


def list_page(
    conn: Connection,
    tenant_id: str,
    webhook_id: str,
    limit: int,
    after: str | None = None,
    *,
    status: str | None = None,
) -> Sequence[Delivery]:
    """Newest first, of one status or of all; ``after`` is the last id of the page before."""
    facts = {
        "tenant_id": tenant_id,
        "webhook_id": webhook_id,
        "limit": limit,
        "after": after,
        "status": status,
    }
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_REPLAY: Final = SQL("""
UPDATE webhook_deliveries SET status = 'pending', attempts = 0, due_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE tenant_id = %s AND webhook_id = %s AND delivery_id = %s
    AND (lease_until IS NULL OR lease_until < clock_timestamp())
RETURNING {columns}
""").format(columns=columns_of(Delivery))


def replay(conn: Connection, tenant_id: str, webhook_id: str, delivery_id: str) -> Delivery:
    """Send the event again, with the same id and body; one that is just being sent is not changed.

    Raises NotFoundError.
    """
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        delivery = cursor.execute(_REPLAY, (tenant_id, webhook_id, delivery_id)).fetchone()
    return delivery or get(conn, tenant_id, webhook_id, delivery_id)
