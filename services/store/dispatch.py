"""What the dispatcher asks: which leases are dead, which rows are due, which run goes next.

Several dispatchers may ask at once: rows are locked with SKIP LOCKED and guarded again in the
update, so that each answer is given to one of them.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.failures import worker_lost
from services.store import outcomes
from services.store.database import Connection, columns_of, seconds
from services.store.run_rows import Run

_OFFERS_LOCK: Final = 0x72657665726F6666
"""Advisory lock: one dispatcher at a time counts free workers ("reveroff" in ASCII)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A row to be rung for."""

    tenant_id: str
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A run to be rung for at the trainers of its class."""

    run_id: str
    gpu_class: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadAttempt:
    """An attempt that the sweep closed."""

    run_id: str
    fence: int
    worker_id: str | None
    status: str
    """Of the run, afterwards."""


_DEAD: Final = SQL("""
SELECT {columns} FROM runs WHERE lease_until < clock_timestamp()
ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run))


def sweep_one_dead(conn: Connection, *, max_attempts: int) -> DeadAttempt | None:
    """Close the attempt whose lease ran out first; None where there is none.

    Only for a dispatcher that has been well for a whole lease: after an outage every lease looks
    dead, though its holder may be about to renew.
    """
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_DEAD).fetchone()
    if run is None:
        return None
    after = outcomes.end_badly(conn, run, "lost", worker_lost(), max_attempts=max_attempts)
    return DeadAttempt(
        run_id=run.run_id, fence=run.fence, worker_id=run.worker_id, status=after.status
    )


# What nobody took is rung for again after as long as it has waited by then: pauses double.
_AGAIN: Final = SQL(
    "clock_timestamp() + least(make_interval(secs => 300),"
    " greatest(make_interval(secs => 10), clock_timestamp() - {since}))"
)

_DATASETS: Final = SQL("""
WITH due AS (
    SELECT dataset_id FROM datasets WHERE ring_after <= clock_timestamp()
    ORDER BY ring_after LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE datasets SET ring_after = {again} FROM due
WHERE datasets.dataset_id = due.dataset_id
RETURNING datasets.tenant_id, datasets.dataset_id AS id
""").format(again=_AGAIN.format(since=SQL("updated_at")))


def take_datasets(conn: Connection, limit: int) -> list[Due]:
    """Datasets to be verified."""
    return _take(conn, _DATASETS, limit)


# Tenants take turns, so that one with thousands of shards does not stand before all others.
_SHARDS: Final = SQL("""
WITH ranked AS (
    SELECT tenant_id, digest,
        row_number() OVER (PARTITION BY tenant_id ORDER BY created_at, digest) AS turn
    FROM cache_shards WHERE status = 'pending' AND ring_after <= clock_timestamp()
), due AS (
    SELECT tenant_id, digest FROM cache_shards JOIN ranked USING (tenant_id, digest)
    WHERE status = 'pending' AND ring_after <= clock_timestamp()
    ORDER BY turn, digest LIMIT %s FOR UPDATE OF cache_shards SKIP LOCKED
)
UPDATE cache_shards SET ring_after = {again} FROM due
WHERE cache_shards.tenant_id = due.tenant_id AND cache_shards.digest = due.digest
RETURNING cache_shards.tenant_id, cache_shards.digest AS id
""").format(again=_AGAIN.format(since=SQL("created_at")))


def take_shards(conn: Connection, limit: int) -> list[Due]:
    """Cache shards to be built."""
    return _take(conn, _SHARDS, limit)


_PUBLICATIONS: Final = SQL("""
WITH due AS (
    SELECT publication_id FROM publications
    WHERE status IN ('pending', 'running') AND ring_after <= clock_timestamp()
    ORDER BY ring_after LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE publications SET ring_after = {again} FROM due
WHERE publications.publication_id = due.publication_id
RETURNING publications.tenant_id, publications.publication_id AS id
""").format(again=_AGAIN.format(since=SQL("updated_at")))


def take_publications(conn: Connection, limit: int) -> list[Due]:
    """Publications to be tried."""
    return _take(conn, _PUBLICATIONS, limit)


def _take(conn: Connection, query: Any, limit: int) -> list[Due]:
    with conn.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(query, (limit,)).fetchall()


_DUE_AGAIN: Final = {
    "datasets": "UPDATE datasets SET ring_after = clock_timestamp()"
    " WHERE tenant_id = %s AND dataset_id = %s AND ring_after IS NOT NULL",
    "cache_shards": "UPDATE cache_shards SET ring_after = clock_timestamp()"
    " WHERE tenant_id = %s AND digest = %s AND ring_after IS NOT NULL",
    "publications": "UPDATE publications SET ring_after = clock_timestamp()"
    " WHERE tenant_id = %s AND publication_id = %s AND ring_after IS NOT NULL",
}


def put_back(conn: Connection, table: str, due: Due) -> None:
    """The broker did not take the ring: the row of ``table`` is due as before."""
    conn.execute(_DUE_AGAIN[table], (due.tenant_id, due.id))


# Who is free is read from the runs, not from what a worker last said of itself. Within a priority
# the tenant that holds the fewest runs goes first, and its oldest run.
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
), chosen AS (
    SELECT run_id FROM places JOIN free USING (gpu_class) LEFT JOIN offered USING (gpu_class)
    WHERE place <= free.workers - coalesce(offered.runs, 0)
)
UPDATE runs SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s)
FROM chosen
WHERE runs.run_id = chosen.run_id AND status = 'queued' AND stage = 'capacity'
    AND (offered_until IS NULL OR offered_until <= clock_timestamp())
RETURNING runs.run_id, runs.gpu_class
"""
_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"


def take_offers(conn: Connection, *, offer: timedelta, silence: timedelta) -> list[Offer]:
    """As many runs as there are free workers without an offer under way, in the order they go.

    Args:
        offer: after this, what was not claimed may be offered again.
        silence: a worker without a heartbeat for this long is not counted.
    """
    row = conn.execute(_TRY_LOCK, (_OFFERS_LOCK,)).fetchone()
    if row != (True,):
        return []  # another dispatcher is counting
    facts = {"offer_s": seconds(offer), "silence_s": seconds(silence)}
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(_OFFERS, facts).fetchall()


_WITHDRAW: Final = """
UPDATE runs SET offered_until = NULL WHERE run_id = %s AND status = 'queued'
"""


def withdraw(conn: Connection, offer: Offer) -> None:
    """The broker did not take the ring: the run may be offered as before."""
    conn.execute(_WITHDRAW, (offer.run_id,))


_FORGET: Final = "DELETE FROM workers WHERE heartbeat_at < clock_timestamp() - interval '1 day'"


def forget_workers(conn: Connection) -> None:
    """Drop the rows of workers that have been gone for a day; attempts keep their ids."""
    conn.execute(_FORGET)
