"""Offers: choose the next runs for the free workers."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row

from services.domain.fair_share import take_turns
from services.store import usage
from services.store.database import Connection, seconds

_OFFERS_LOCK: Final = 0x72657665726F6666
"""Advisory lock: one dispatcher at a time counts free workers ("reveroff" in ASCII)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A run that is offered to the trainers of its GPU class."""

    run_id: str
    gpu_class: str


_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
# A worker is free if no run names it as its holder; its last heartbeat may be outdated.
_FREE: Final = """
WITH free AS (
    SELECT gpu_class, count(*) AS workers FROM workers
    WHERE kind = 'trainer' AND NOT draining
        AND heartbeat_at > clock_timestamp() - make_interval(secs => %(silence_s)s)
        AND NOT EXISTS (
            SELECT FROM runs
            WHERE runs.worker_id = workers.worker_id AND runs.lease_until IS NOT NULL)
    GROUP BY gpu_class
), offered AS (
    SELECT gpu_class, count(*) AS runs FROM runs
    WHERE offered_until > clock_timestamp() GROUP BY gpu_class
)
SELECT gpu_class, workers - coalesce(runs, 0) FROM free LEFT JOIN offered USING (gpu_class)
WHERE workers > coalesce(runs, 0)
"""


def take_offers(
    conn: Connection, *, offer: timedelta, silence: timedelta, half_life: timedelta
) -> list[Offer]:
    """Mark runs as offered and return them: at most one for each free worker without an offer.

    Args:
        offer: a run that is not claimed within this time may be offered again.
        silence: a worker without a heartbeat for this long is not counted.
        half_life: of the use that tenants' shares are computed from.
    """
    row = conn.execute(_TRY_LOCK, (_OFFERS_LOCK,)).fetchone()
    if row != (True,):
        return []  # another dispatcher is counting
    offers: list[Offer] = []
    for gpu_class, workers in conn.execute(_FREE, {"silence_s": seconds(silence)}).fetchall():
        facts = {"gpu_class": gpu_class, "offer_s": seconds(offer)}

        def take(tenant_id: str, facts: dict[str, object] = facts) -> Offer | None:
            return _offer_next(conn, {**facts, "tenant_id": tenant_id})

        shares = usage.shares(conn, gpu_class, half_life=half_life)
        offers += take_turns(shares, workers, take)
    return offers


# Locked rows are skipped.
_OFFER_NEXT: Final = """
WITH next AS (
    SELECT run_id FROM runs
    WHERE tenant_id = %(tenant_id)s AND gpu_class = %(gpu_class)s
        AND status = 'queued' AND stage = 'capacity'
        AND (offered_until IS NULL OR offered_until <= clock_timestamp())
        AND (ring_after IS NULL OR ring_after <= clock_timestamp())
    ORDER BY priority DESC, run_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE runs SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s)
FROM next WHERE runs.run_id = next.run_id
RETURNING runs.run_id, runs.gpu_class
"""


def _offer_next(conn: Connection, facts: dict[str, object]) -> Offer | None:
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(_OFFER_NEXT, facts).fetchone()


_WITHDRAW: Final = """
UPDATE runs SET offered_until = NULL WHERE run_id = %s AND status = 'queued'
"""


def withdraw(conn: Connection, offer: Offer) -> None:
    """Take the offer back, because the ring could not be sent."""
    conn.execute(_WITHDRAW, (offer.run_id,))
