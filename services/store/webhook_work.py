"""Sending to webhooks: deliveries that are due, what became of them, and webhooks that fail.

A delivery is claimed under a lease that is longer than a try, so one whose process died is sent
again, with the same id. Of one webhook and of one tenant only a few are sent at a time, so that a
receiver that hangs delays nobody else's.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.audit import RESULTS
from services.domain.webhooks import DISABLE_AFTER, pause_after
from services.store import audit, restore_guard, webhook_events
from services.store.database import Connection, seconds

AT_ONCE_OF_WEBHOOK: Final = 2
AT_ONCE_OF_TENANT: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DueDelivery:
    """A delivery that this process has claimed, and how it is signed."""

    delivery_id: str
    tenant_id: str
    webhook_id: str
    url: str
    event_id: str
    payload: str
    secret_id: str
    old_secret_id: str | None
    """None where no older secret signs any more."""
    attempts: int
    """Number of tries, this one included."""
    fence: int
    is_failing: bool
    """Whether the webhook's newest try failed."""
    claimed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of one try."""

    status_code: int | None
    """None where the receiver gave no answer."""
    error: str | None
    """Why it gave none."""
    reply: str
    """The beginning of its answer's body."""
    retry_after: timedelta | None = None
    """As its header says."""

    @property
    def is_good(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


_IS_OPEN: Final = SQL("""
disabled_at IS NULL AND webhooks.deleted_at IS NULL AND tenants.deleted_at IS NULL
    AND NOT {is_restored}
""").format(is_restored=restore_guard.IS_RESTORED)
_IS_DUE: Final = SQL("""
SELECT EXISTS (
    SELECT FROM webhooks JOIN tenants USING (tenant_id)
    WHERE {is_open} AND EXISTS (
        SELECT FROM webhook_deliveries
        WHERE webhook_deliveries.tenant_id = webhooks.tenant_id
            AND webhook_deliveries.webhook_id = webhooks.webhook_id
            AND due_at <= clock_timestamp()))
""").format(is_open=_IS_OPEN)


def is_due(conn: Connection) -> bool:
    """Whether there is anything to send."""
    return conn.execute(_IS_DUE).fetchone() == (True,)


# Webhooks that fail go last, and may not take the last places: each of their tries may take as long
# as a try may.
_CLAIM: Final = SQL("""
WITH under_way AS (
    SELECT tenant_id, webhook_id, count(*) AS num FROM webhook_deliveries
    WHERE lease_until > clock_timestamp() GROUP BY tenant_id, webhook_id
), of_tenant AS (
    SELECT tenant_id, sum(num) AS num FROM under_way GROUP BY tenant_id
), due AS (
    SELECT delivery_id, webhooks.tenant_id, due_at, first_failed_at IS NOT NULL AS is_failing,
        row_number() OVER (PARTITION BY webhook_id ORDER BY due_at) + coalesce(num, 0) AS place
    FROM webhooks JOIN tenants USING (tenant_id)
        LEFT JOIN under_way USING (tenant_id, webhook_id)
        CROSS JOIN LATERAL (
            SELECT delivery_id, due_at FROM webhook_deliveries
            WHERE webhook_deliveries.webhook_id = webhooks.webhook_id
                AND webhook_deliveries.tenant_id = webhooks.tenant_id
                AND due_at <= clock_timestamp()
            ORDER BY due_at LIMIT %(of_webhook)s) AS waiting
    WHERE {is_open}
), fair AS (
    SELECT delivery_id, due_at, is_failing,
        row_number() OVER (PARTITION BY tenant_id ORDER BY is_failing, due_at)
            + coalesce(num, 0) AS place
    FROM due LEFT JOIN of_tenant USING (tenant_id) WHERE place <= %(of_webhook)s
), chosen AS (
    SELECT delivery_id FROM (
        SELECT delivery_id, due_at, is_failing,
            row_number() OVER (PARTITION BY is_failing ORDER BY due_at) AS place_of_kind
        FROM fair WHERE place <= %(of_tenant)s) AS placed
    WHERE NOT is_failing OR place_of_kind <= %(failing)s
    ORDER BY is_failing, due_at LIMIT %(limit)s
)
UPDATE webhook_deliveries AS claimed SET fence = fence + 1, attempts = attempts + 1,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    due_at = clock_timestamp() + make_interval(secs => %(lease_s)s),
    updated_at = clock_timestamp()
FROM chosen, webhooks
WHERE claimed.delivery_id = chosen.delivery_id AND claimed.due_at <= clock_timestamp()
    AND webhooks.webhook_id = claimed.webhook_id AND webhooks.secret_id IS NOT NULL
RETURNING claimed.delivery_id, claimed.tenant_id, claimed.webhook_id, url, event_id,
    payload::text AS payload, secret_id,
    CASE WHEN old_secret_expires_at > clock_timestamp() THEN old_secret_id END AS old_secret_id,
    attempts, fence, first_failed_at IS NOT NULL AS is_failing, clock_timestamp() AS claimed_at
""").format(is_open=_IS_OPEN)


def claim(conn: Connection, lease: timedelta, *, limit: int, failing: int) -> list[DueDelivery]:
    """Claim deliveries that are due.

    Args:
        lease: longer than a try takes; then another process may claim it.
        limit: at most as many.
        failing: at most as many to webhooks that fail.
    """
    facts = {
        "lease_s": seconds(lease),
        "limit": limit,
        "failing": failing,
        "of_webhook": AT_ONCE_OF_WEBHOOK,
        "of_tenant": AT_ONCE_OF_TENANT,
    }
    with conn.cursor(row_factory=class_row(DueDelivery)) as cursor:
        return cursor.execute(_CLAIM, facts).fetchall()


_END: Final = """
UPDATE webhook_deliveries SET status = %(status)s, status_code = %(status_code)s,
    error = %(error)s, reply = %(reply)s, lease_until = NULL,
    due_at = clock_timestamp() + make_interval(secs => %(pause_s)s), updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND delivery_id = %(delivery_id)s AND fence = %(fence)s
    AND lease_until IS NOT NULL
RETURNING true
"""
_IS_GOOD: Final = """
UPDATE webhooks SET first_failed_at = NULL
WHERE tenant_id = %s AND webhook_id = %s AND first_failed_at IS NOT NULL
"""
_FAILS: Final = """
UPDATE webhooks SET first_failed_at = coalesce(first_failed_at, clock_timestamp())
WHERE tenant_id = %s AND webhook_id = %s
RETURNING first_failed_at < clock_timestamp() - make_interval(secs => %s)
"""


def record(conn: Connection, work: DueDelivery, answer: Answer) -> bool:
    """Store what came of a try; False where another process has claimed the delivery meanwhile.

    A webhook that answers 410, or has failed for three days, is disabled.
    """
    is_gone = answer.status_code == 410
    pause = None
    if not answer.is_good and not is_gone:
        pause = pause_after(work.attempts, answer.retry_after)
    facts = {
        "tenant_id": work.tenant_id,
        "delivery_id": work.delivery_id,
        "fence": work.fence,
        "status": "succeeded" if answer.is_good else "failed" if pause is None else "pending",
        "status_code": answer.status_code,
        "error": answer.error,
        "reply": answer.reply,
        "pause_s": None if pause is None else seconds(pause),
    }
    if conn.execute(_END, facts).fetchone() is None:
        return False
    if answer.is_good:
        conn.execute(_IS_GOOD, (work.tenant_id, work.webhook_id))
        return True
    row = conn.execute(_FAILS, (work.tenant_id, work.webhook_id, seconds(DISABLE_AFTER))).fetchone()
    if is_gone:
        _disable(conn, work, "gone")
    elif row == (True,):
        _disable(conn, work, "failing")
    return True


_DISABLE: Final = """
UPDATE webhooks SET disabled_at = clock_timestamp(), disabled_reason = %s, version = version + 1,
    updated_at = clock_timestamp()
WHERE tenant_id = %s AND webhook_id = %s AND disabled_at IS NULL AND deleted_at IS NULL
RETURNING version
"""


def _disable(conn: Connection, work: DueDelivery, reason: str) -> None:
    """Send nothing more to it, and tell the tenant's other webhooks and its audit log."""
    row = conn.execute(_DISABLE, (reason, work.tenant_id, work.webhook_id)).fetchone()
    if row is None:
        return
    data = {"webhook_id": work.webhook_id, "reason": reason, "version": row[0]}
    webhook_events.announce(conn, work.tenant_id, "webhook.disabled", data)
    audit.record(
        conn,
        work.tenant_id,
        RESULTS,
        "webhook.disabled",
        work.webhook_id,
        data={"reason": reason},
    )


_POSTPONE: Final = """
UPDATE webhook_deliveries SET attempts = attempts - 1, lease_until = NULL, error = %(error)s,
    due_at = clock_timestamp() + make_interval(secs => %(pause_s)s), updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND delivery_id = %(delivery_id)s AND fence = %(fence)s
    AND lease_until IS NOT NULL
"""


def postpone(conn: Connection, work: DueDelivery, *, error: str, pause: timedelta) -> None:
    """The service could not send it; this is no failure of the receiver."""
    facts = {
        "tenant_id": work.tenant_id,
        "delivery_id": work.delivery_id,
        "fence": work.fence,
        "error": error,
        "pause_s": seconds(pause),
    }
    conn.execute(_POSTPONE, facts)
