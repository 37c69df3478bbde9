"""Offers: choose the next runs for the free workers."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row

from services.store.database import Connection, seconds

_OFFERS_LOCK: Final = 0x72657665726F6666
"""Advisory lock: one dispatcher at a time counts free workers ("reveroff" in ASCII)."""
_SPARE: Final = 16
"""Candidates beyond the number of free workers, in case some rows are locked and skipped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A run that is offered to the trainers of its GPU class."""

    run_id: str
    gpu_class: str


# A worker is free if no run names it as its holder; its last heartbeat may be outdated. Within a
# priority, the tenant with the fewest running runs goes first, with its oldest run. Locked rows are
# skipped.
_OFFERS: Final = """
WITH free AS (
    SELECT gpu_class, count(*) AS workers FROM workers
    WHERE kind = 'trainer' AND NOT draining
        AND heartbeat_at > clock_timestamp() - make_interval(secs => %(silence_s)s)
        AND NOT EXISTS (
            SELECT FROM runs
            WHERE runs.worker_id = workers.worker_id AND runs.lease_until IS NOT NULL)
    GROUP BY gpu_class
), waiting AS (
    SELECT run_id, tenant_id, gpu_class, priority,
        coalesce(offered_until > clock_timestamp(), false) AS is_offered,
        (ring_after IS NULL OR ring_after <= clock_timestamp()) AS is_due
    FROM runs WHERE status = 'queued' AND stage = 'capacity'
), offered AS (
    SELECT gpu_class, count(*) AS runs FROM waiting WHERE is_offered GROUP BY gpu_class
), share AS (
    SELECT tenant_id, count(*) AS runs FROM (
        SELECT tenant_id FROM runs WHERE lease_until IS NOT NULL
        UNION ALL SELECT tenant_id FROM waiting WHERE is_offered
    ) AS held GROUP BY tenant_id
), turns AS (
    SELECT run_id, gpu_class, priority,
        coalesce(share.runs, 0)
            + row_number() OVER (PARTITION BY tenant_id, gpu_class, priority ORDER BY run_id)
            AS turn
    FROM waiting LEFT JOIN share USING (tenant_id) WHERE is_due AND NOT is_offered
), places AS (
    SELECT run_id, gpu_class,
        row_number() OVER (PARTITION BY gpu_class ORDER BY priority DESC, turn, run_id) AS place
    FROM turns
), candidates AS (
    SELECT run_id, gpu_class, place, free.workers - coalesce(offered.runs, 0) AS num_free
    FROM places JOIN free USING (gpu_class) LEFT JOIN offered USING (gpu_class)
    WHERE free.workers > coalesce(offered.runs, 0)
        AND place <= free.workers - coalesce(offered.runs, 0) + %(spare)s
), unlocked AS MATERIALIZED (
    SELECT run_id FROM runs WHERE run_id IN (SELECT run_id FROM candidates)
        AND status = 'queued' AND stage = 'capacity'
        AND (offered_until IS NULL OR offered_until <= clock_timestamp())
    FOR UPDATE SKIP LOCKED
), chosen AS (
    SELECT run_id FROM (
        SELECT run_id, num_free,
            row_number() OVER (PARTITION BY gpu_class ORDER BY place) AS new_place
        FROM candidates JOIN unlocked USING (run_id)
    ) AS ranked WHERE new_place <= num_free
)
UPDATE runs SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s)
FROM chosen WHERE runs.run_id = chosen.run_id
RETURNING runs.run_id, runs.gpu_class
"""
_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"


def take_offers(conn: Connection, *, offer: timedelta, silence: timedelta) -> list[Offer]:
    """Mark runs as offered and return them: at most one for each free worker without an offer.

    Args:
        offer: a run that is not claimed within this time may be offered again.
        silence: a worker without a heartbeat for this long is not counted.
    """
    row = conn.execute(_TRY_LOCK, (_OFFERS_LOCK,)).fetchone()
    if row != (True,):
        return []  # another dispatcher is counting
    facts = {"offer_s": seconds(offer), "silence_s": seconds(silence), "spare": _SPARE}
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(_OFFERS, facts).fetchall()


_WITHDRAW: Final = """
UPDATE runs SET offered_until = NULL WHERE run_id = %s AND status = 'queued'
"""


def withdraw(conn: Connection, offer: Offer) -> None:
    """Take the offer back, because the ring could not be sent."""
    conn.execute(_WITHDRAW, (offer.run_id,))
