"""Deleting what webhooks leave behind, some at a time: deliveries, secrets, deleted webhooks."""

from datetime import timedelta
from typing import Final

from services.store import secrets
from services.store.database import Connection, seconds

_OLD: Final = """
DELETE FROM webhook_deliveries WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM webhook_deliveries
    WHERE created_at < clock_timestamp() - make_interval(secs => %s) LIMIT %s))
"""


def delete_old_deliveries(conn: Connection, *, age: timedelta, limit: int) -> int:
    """Delete deliveries of this age; returns how many."""
    return conn.execute(_OLD, (seconds(age), limit)).rowcount


_DELETED: Final = """
SELECT tenant_id, webhook_id FROM webhooks WHERE deleted_at IS NOT NULL
ORDER BY deleted_at LIMIT 1
"""
_OF_DELETED: Final = """
DELETE FROM webhook_deliveries WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM webhook_deliveries WHERE tenant_id = %s AND webhook_id = %s LIMIT %s))
"""
_FORGET: Final = "DELETE FROM webhooks WHERE tenant_id = %s AND webhook_id = %s"


def delete_of_deleted(conn: Connection, *, limit: int) -> int:
    """Delete rows of a webhook that was deleted, the webhook last; returns how many."""
    row = conn.execute(_DELETED).fetchone()
    if row is None:
        return 0
    num_deleted = conn.execute(_OF_DELETED, (*row, limit)).rowcount
    return num_deleted or conn.execute(_FORGET, row).rowcount


_FORGET_OLD_SECRETS: Final = """
WITH over AS (
    SELECT webhook_id, tenant_id, old_secret_id FROM webhooks
    WHERE old_secret_expires_at <= clock_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE webhooks SET old_secret_id = NULL, old_secret_expires_at = NULL FROM over
WHERE webhooks.webhook_id = over.webhook_id
RETURNING over.tenant_id, over.old_secret_id
"""


def delete_old_secrets(conn: Connection, *, limit: int) -> int:
    """Delete secrets that sign nothing any more; returns how many."""
    rows = conn.execute(_FORGET_OLD_SECRETS, (limit,)).fetchall()
    for tenant_id, secret_id in rows:
        secrets.delete_signing_secrets(conn, tenant_id, [secret_id])
    return len(rows)
