"""Runs that wait for admission: offered to an indexer, taken under a lease, given back.

Tenants take turns, and one whose runs are already admitted and wait goes behind others.

A run whose indexer vanishes is tried again in a process of its own. When that dies and its indexer
lives, it was the run's doing, and the fifth time fails it. Machines that vanish are counted apart.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.attempt_budgets import MAX_INFRA_FAILURES
from services.domain.failures import (
    attempts_exhausted,
    backoff,
    indexing_died,
    indexing_interrupted,
)
from services.domain.placement import BUILDER_LEASE
from services.domain.states import RunStatus
from services.store import admission, transitions, workers
from services.store.database import Connection, columns_of, seconds
from services.store.failing_rows import MAX_FAILURES
from services.store.run_rows import Run
from trainer_core.process.failure import Failure, failure_as_json

LARGE_FILES: Final = 10_000
LARGE_CAPTION_BYTES: Final = 16 << 20
"""A run with more of one of the two takes longer than a second to index. At most one such run a
builder is in flight, so the others are admitted meanwhile."""
_RUNS_A_BUILDER: Final = 8
_RUNS_A_TENANT: Final = 2
"""One that is indexed, and one that follows at once."""
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(minutes=5)
_LOCK: Final = 0x7265766572696478
"""Advisory lock: one dispatcher at a time counts the runs in flight ("reveridx" in ASCII)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexOffer:
    """A run that is offered to the indexers."""

    tenant_id: str
    run_id: str
    is_large: bool
    traceparent: str | None
    """The run's trace; None: it has none."""


_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
_WAITING: Final = "status = 'queued' AND stage = 'admission'"
# A path, because jsonb_each() is an error for a corrupt row that is no object.
_LARGE: Final = """
EXISTS (
    SELECT FROM datasets WHERE datasets.tenant_id = runs.tenant_id
        AND dataset_id IN (SELECT jsonb_path_query(runs.datasets, '$.*') #>> '{}')
    HAVING sum(num_files) > %(large_files)s OR sum(caption_bytes) > %(large_caption_bytes)s)
"""
_SIZES: Final = {"large_files": LARGE_FILES, "large_caption_bytes": LARGE_CAPTION_BYTES}
_IN_FLIGHT: Final = f"""
SELECT tenant_id, count(*) AS num_runs, count(*) FILTER (WHERE {_LARGE}) AS num_large FROM runs
WHERE {_WAITING} AND (offered_until IS NOT NULL OR index_until IS NOT NULL)
    AND greatest(offered_until, index_until) > clock_timestamp()
GROUP BY tenant_id
"""  # noqa: S608 - constants
# A run's turn is the number of its tenant's runs that are in flight, admitted and waiting, or due
# before it, divided by the tenant's weight.
_CANDIDATES: Final = f"""
WITH in_flight AS ({_IN_FLIGHT}), admitted AS (
    SELECT tenant_id, count(*) AS num_runs FROM runs
    WHERE (status = 'queued' AND stage = 'capacity') OR (status = 'running' AND stage = 'caching')
    GROUP BY tenant_id
), due AS (
    SELECT tenants.tenant_id, weight, waiting.*
    FROM tenants LEFT JOIN in_flight USING (tenant_id) CROSS JOIN LATERAL (
        SELECT run_id, priority, ring_after, traceparent, {_LARGE} AS is_large FROM runs
        WHERE runs.tenant_id = tenants.tenant_id AND {_WAITING}
            AND ring_after <= clock_timestamp()
        ORDER BY priority DESC, ring_after, run_id
        LIMIT greatest(0, %(a_tenant)s - coalesce(in_flight.num_runs, 0))
    ) AS waiting
), turns AS (
    SELECT due.tenant_id, run_id, is_large, traceparent, ring_after,
        (coalesce(in_flight.num_runs, 0) + coalesce(admitted.num_runs, 0)
            + row_number() OVER (
                PARTITION BY tenant_id ORDER BY priority DESC, ring_after, run_id)
        ) / weight AS turn
    FROM due LEFT JOIN in_flight USING (tenant_id) LEFT JOIN admitted USING (tenant_id)
)
SELECT tenant_id, run_id, is_large, traceparent FROM turns
WHERE NOT is_large OR %(large_places)s > 0
ORDER BY turn, ring_after, run_id LIMIT %(limit)s
"""  # noqa: S608 - constants
_OFFER: Final = """
UPDATE runs SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(offer_s)s)
WHERE run_id IN (
    SELECT run_id FROM runs
    WHERE run_id = %(run_id)s AND status = 'queued' AND stage = 'admission'
        AND ring_after <= clock_timestamp()
    FOR UPDATE SKIP LOCKED)
"""


def take_offers(conn: Connection, *, offer: timedelta, silence: timedelta) -> list[IndexOffer]:
    """Mark due runs as offered and return them: a few for each builder and each tenant.

    Args:
        offer: a run that no indexer takes within this time may be offered again.
        silence: a builder without a heartbeat for this long is not counted.
    """
    if conn.execute(_TRY_LOCK, (_LOCK,)).fetchone() != (True,):
        return []  # another dispatcher is counting
    num_builders = workers.cache_builders(conn, silence=silence)
    in_flight = conn.execute(_IN_FLIGHT.encode(), _SIZES).fetchall()
    places = num_builders * _RUNS_A_BUILDER - sum(num_runs for _, num_runs, _ in in_flight)
    large_places = num_builders - sum(num_large for _, _, num_large in in_flight)
    if places <= 0:
        return []
    facts = {
        **_SIZES,
        "large_places": large_places,
        "a_tenant": _RUNS_A_TENANT,
        "limit": places + num_builders * _RUNS_A_BUILDER,
    }
    with conn.cursor(row_factory=class_row(IndexOffer)) as cursor:
        candidates = cursor.execute(_CANDIDATES.encode(), facts).fetchall()
    taken: list[IndexOffer] = []
    for candidate in candidates:
        if len(taken) == places:
            break
        if candidate.is_large and large_places <= 0:
            continue
        offered = {"run_id": candidate.run_id, "offer_s": seconds(offer)}
        if conn.execute(_OFFER, offered).rowcount:
            taken.append(candidate)
            large_places -= candidate.is_large
    return taken


_WITHDRAW: Final = """
UPDATE runs SET offered_until = NULL, ring_after = clock_timestamp()
WHERE run_id = %s AND status = 'queued' AND stage = 'admission' AND offered_until IS NOT NULL
"""


def withdraw(conn: Connection, offer: IndexOffer) -> None:
    """Take the offer back, because the ring could not be sent."""
    conn.execute(_WITHDRAW, (offer.run_id,))


_NEEDS_PROCESS: Final = f"""
SELECT infra_failures > 0 OR {_LARGE} FROM runs
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND {_WAITING} AND offered_until IS NOT NULL
"""  # noqa: S608 - constants


def needs_process(conn: Connection, tenant_id: str, run_id: str) -> bool:
    """Whether the run is offered, and has to be indexed in a process of its own.

    Its data takes longer than a second to index, or an indexer has vanished with it.
    """
    facts = {**_SIZES, "tenant_id": tenant_id, "run_id": run_id}
    return conn.execute(_NEEDS_PROCESS.encode(), facts).fetchone() == (True,)


# The try is counted before the work, because an index may end the process. A locked row is skipped
# and offered again later.
_TAKE: Final = SQL("""
UPDATE runs SET index_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s),
    offered_until = NULL, infra_failures = infra_failures + 1
WHERE run_id IN (
    SELECT run_id FROM runs
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
        AND status = 'queued' AND stage = 'admission' AND offered_until IS NOT NULL
    FOR UPDATE SKIP LOCKED)
RETURNING {columns}
""").format(columns=columns_of(Run))


def take(conn: Connection, tenant_id: str, run_id: str) -> Run | None:
    """Take an offered run; None where it is not offered any more, or where its row is locked.

    A run whose indexers vanished too often fails here.
    """
    facts = {"tenant_id": tenant_id, "run_id": run_id, "lease_s": seconds(BUILDER_LEASE)}
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_TAKE, facts).fetchone()
    if run is not None and run.infra_failures > MAX_INFRA_FAILURES:
        reason = attempts_exhausted(MAX_INFRA_FAILURES, indexing_interrupted())
        transitions.change_status(conn, run, RunStatus.FAILED, reason=reason)
        return None
    return run


_RENEW: Final = """
UPDATE runs SET index_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE run_id = %(run_id)s AND status = 'queued' AND stage = 'admission'
    AND index_until > clock_timestamp()
"""


def renew(conn: Connection, run_id: str) -> None:
    """Extend the lease while the run is indexed; no change where it has run out."""
    conn.execute(_RENEW, {"run_id": run_id, "lease_s": seconds(BUILDER_LEASE)})


_GIVE_BACK: Final = """
UPDATE runs SET index_until = NULL, status_reason = %(reason)s, dispatch_failures = %(failures)s,
    infra_failures = %(infra_failures)s,
    ring_after = clock_timestamp() + make_interval(secs => %(after_s)s)
WHERE run_id = %(run_id)s
"""


def postpone(conn: Connection, run_id: str, *, after: timedelta, reason: Failure) -> None:
    """Postpone the run; the tenant sees the reason. This is not counted as a failure."""
    run = admission.lock_waiting(conn, run_id)
    if run is not None:
        _give_back(conn, replace(run, infra_failures=0), after, reason)


def fail(conn: Connection, run_id: str, reason: Failure) -> None:
    """Postpone after an unexpected error, for longer each time; the fifth fails the run."""
    run = admission.lock_waiting(conn, run_id)
    if run is not None:
        run = replace(run, infra_failures=0)
        _count_failure(conn, run, reason, final=replace(reason, retryable=False))


_IS_TAKEN: Final = "SELECT index_until > clock_timestamp() FROM runs WHERE run_id = %s"


def fail_dead(conn: Connection, run_id: str) -> None:
    """As ``fail``, where the process that indexed only this run has died or took too long.

    No change where it died before it took the run: then the run, which is offered again, cannot
    have caused it.
    """
    run = admission.lock_waiting(conn, run_id)
    if run is not None and conn.execute(_IS_TAKEN, (run_id,)).fetchone() == (True,):
        _count_failure(conn, run, indexing_interrupted(), final=indexing_died(MAX_FAILURES))


_AWAIT_DATA: Final = """
UPDATE runs SET status_reason = NULL, index_until = NULL, infra_failures = 0,
    ring_after = clock_timestamp() + least(make_interval(mins => 1),
        greatest(make_interval(secs => 2), clock_timestamp() - created_at))
WHERE run_id = %s
"""


def await_data(conn: Connection, run_id: str) -> None:
    """Postpone the run until its datasets are verified, or for a growing pause up to a minute."""
    if admission.lock_waiting(conn, run_id) is not None:
        conn.execute(_AWAIT_DATA, (run_id,))


def _count_failure(conn: Connection, run: Run, reason: Failure, *, final: Failure) -> None:
    failures = run.dispatch_failures + 1
    if failures >= MAX_FAILURES:
        transitions.change_status(conn, run, RunStatus.FAILED, reason=final)
        return
    after = backoff(run.dispatch_failures, first=_FIRST_PAUSE, limit=_LONGEST_PAUSE)
    _give_back(conn, replace(run, dispatch_failures=failures), after, reason)


def _give_back(conn: Connection, run: Run, after: timedelta, reason: Failure) -> None:
    facts = {
        "run_id": run.run_id,
        "after_s": seconds(after),
        "reason": Jsonb(failure_as_json(reason)),
        "failures": run.dispatch_failures,
        "infra_failures": run.infra_failures,
    }
    conn.execute(_GIVE_BACK, facts)
