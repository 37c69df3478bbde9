"""Offers: choose the next runs for the free workers, and a worker for each."""

from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.fair_share import Share, take_turns
from services.domain.placement import FreeWorker, NextRun, place
from services.domain.quotas import Quotas
from services.store import line, quota_waits, run_limits, usage
from services.store.database import Connection, seconds

_OFFERS_LOCK: Final = 0x72657665726F6666
"""Advisory lock: one dispatcher at a time counts free workers ("reveroff" in ASCII)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A run that is offered to a worker of its GPU class."""

    run_id: str
    gpu_class: str
    worker_id: str | None
    """Nobody else can claim it meanwhile; None: any worker of the class can."""
    traceparent: str | None
    """The run's trace; None: it has none."""
    is_remote: bool = False
    """The worker asks for its offer itself, over HTTPS."""


_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
# A worker is free if no run names it as its holder; its last heartbeat may be outdated. An offer
# that names no worker takes one of those without a node. The last heartbeats come first. Held and
# offered runs are read once, not once a worker. An offer of a run in admission is the indexer's.
_FREE: Final = """
WITH held AS MATERIALIZED (
    SELECT worker_id FROM runs WHERE lease_until IS NOT NULL
), offered AS MATERIALIZED (
    SELECT gpu_class, offered_to FROM runs
    WHERE stage = 'capacity' AND offered_until > clock_timestamp()
), warm AS (
    SELECT node, array_agg(DISTINCT base_model) AS base_models
    FROM workers CROSS JOIN unnest(base_models) AS base_model WHERE node <> '' GROUP BY node
), free AS (
    SELECT worker_id, gpu_class, node, heartbeat_at,
        row_number() OVER (PARTITION BY gpu_class, node ORDER BY heartbeat_at DESC) AS place
    FROM workers
    WHERE kind = 'trainer' AND NOT draining
        AND heartbeat_at > clock_timestamp() - make_interval(secs => %(silence_s)s)
        AND NOT EXISTS (SELECT FROM held WHERE held.worker_id = workers.worker_id)
        AND NOT EXISTS (SELECT FROM offered WHERE offered_to = workers.worker_id)
)
SELECT worker_id, gpu_class, node, coalesce(base_models, '{}') AS base_models,
    EXISTS (SELECT FROM worker_keys WHERE worker_keys.worker_id = free.worker_id) AS is_remote
FROM free LEFT JOIN warm USING (node)
WHERE node <> '' OR place > (
    SELECT count(*) FROM offered
    WHERE offered.gpu_class = free.gpu_class AND offered_to IS NULL)
ORDER BY gpu_class, heartbeat_at DESC
"""


def take_offers(
    conn: Connection,
    *,
    offer: timedelta,
    silence: timedelta,
    half_life: timedelta,
    aging: timedelta,
    quotas: Quotas,
) -> list[Offer]:
    """Mark runs as offered and return them: at most one for each free worker without an offer.

    No tenant gets more than its quotas allow.

    Args:
        offer: a run that is not claimed within this time may be offered again.
        silence: a worker without a heartbeat for this long is not counted.
        half_life: of the use that tenants' shares are computed from.
        aging: a run that has waited for this long goes like one of the next higher priority.
        quotas: of tenants that have no others.
    """
    row = conn.execute(_TRY_LOCK, (_OFFERS_LOCK,)).fetchone()
    if row != (True,):
        return []  # another dispatcher is counting
    with conn.cursor(row_factory=class_row(FreeWorker)) as cursor:
        workers = cursor.execute(_FREE, {"silence_s": seconds(silence)}).fetchall()
    offers: list[Offer] = []
    rooms: dict[str, int] = {}
    for gpu_class, free in groupby(workers, attrgetter("gpu_class")):
        facts = {"gpu_class": gpu_class, "offer_s": seconds(offer), "aging_s": seconds(aging)}
        shares = usage.shares(conn, gpu_class, half_life=half_life)
        offers += _offer_to(conn, shares, list(free), facts, rooms=rooms, quotas=quotas)
    return offers


def _offer_to(
    conn: Connection,
    shares: list[Share],
    free: list[FreeWorker],
    facts: dict[str, Any],
    *,
    rooms: dict[str, int],
    quotas: Quotas,
) -> list[Offer]:
    """Offer a run to each of these workers of one class, as far as there are runs.

    Args:
        rooms: tenant id → what its quotas leave in this round; added at the tenant's first turn.
    """

    def take(tenant_id: str) -> Offer | None:
        if tenant_id not in rooms:
            rooms[tenant_id] = quota_waits.room(conn, tenant_id, quotas)
        run = _next_run(conn, {**facts, "tenant_id": tenant_id}) if rooms[tenant_id] else None
        if run is None:
            return None
        rooms[tenant_id] -= 1
        worker = place(run, free)
        free.remove(worker)
        worker_id = worker.worker_id if worker.node else None
        offered = {**facts, "run_id": run.run_id, "worker_id": worker_id}
        row = conn.execute(_OFFER, offered).fetchone()
        assert row is not None  # its row is locked
        return Offer(
            run_id=run.run_id,
            gpu_class=worker.gpu_class,
            worker_id=worker_id,
            traceparent=row[0],
            is_remote=worker.is_remote,
        )

    return take_turns(shares, len(free), take)


# Locked rows are skipped.
_NEXT: Final = SQL("""
SELECT run_id, base_model, offered_to AS unanswered_by, (
    SELECT node FROM attempts
    WHERE attempts.run_id = runs.run_id AND attempts.fence = runs.fence
        AND (outcome = 'lost' OR (outcome = 'failed' AND reason->>'category' = 'infra'))
    ) AS failed_on
FROM runs
WHERE tenant_id = %(tenant_id)s AND gpu_class = %(gpu_class)s
    AND status = 'queued' AND stage = 'capacity'
    AND (offered_until IS NULL OR offered_until <= clock_timestamp())
    AND (ring_after IS NULL OR ring_after <= clock_timestamp())
    AND NOT {is_at_limit}
ORDER BY {order} LIMIT 1 FOR UPDATE OF runs SKIP LOCKED
""").format(is_at_limit=run_limits.IS_REACHED, order=line.ORDER)
_OFFER: Final = """
UPDATE runs SET offered_to = %(worker_id)s,
    offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s)
WHERE run_id = %(run_id)s
RETURNING traceparent
"""


def _next_run(conn: Connection, facts: dict[str, Any]) -> NextRun | None:
    with conn.cursor(row_factory=class_row(NextRun)) as cursor:
        return cursor.execute(_NEXT, facts).fetchone()


_WITHDRAW: Final = """
UPDATE runs SET offered_until = NULL, offered_to = NULL WHERE run_id = %s AND status = 'queued'
"""


def withdraw(conn: Connection, offer: Offer) -> None:
    """Take the offer back, because the ring could not be sent."""
    conn.execute(_WITHDRAW, (offer.run_id,))
