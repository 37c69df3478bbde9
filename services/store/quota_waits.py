"""Runs that wait for a quota: of how many may train at once, or of GPU-hours a month."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL, Composable, Composed

from services.domain.quotas import Quotas, Starts, starts_of
from services.domain.states import Stage
from services.store import line, transitions
from services.store.database import Connection, columns_of, seconds
from services.store.run_rows import Run
from trainer_core.process.failure import Failure

IS_OFFERED: Final = SQL("""
    status = 'queued' AND stage = 'capacity' AND offered_until > clock_timestamp()""")
IS_THIS_MONTH: Final = SQL("""
    month = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date""")
UNCHARGED_S: Final = SQL("""
    greatest(0, extract(epoch FROM least(clock_timestamp(), lease_until) - charged_until))""")
"""Seconds of a held attempt since its last charge."""

# Of each busy tenant: its limits and what it uses.
_USE: Final = SQL("""
WITH busy AS ({busy}), held AS (
    SELECT runs.tenant_id, count(*) AS runs, sum({uncharged_s}) AS used_s
    FROM runs LEFT JOIN attempts USING (run_id, fence) WHERE lease_until IS NOT NULL
    GROUP BY runs.tenant_id
), offered AS (
    SELECT tenant_id, count(*) AS runs FROM runs WHERE {is_offered} GROUP BY tenant_id
), charged AS (
    SELECT tenant_id, sum(charged_s) AS used_s FROM monthly_usage JOIN busy USING (tenant_id)
    WHERE {is_this_month} GROUP BY tenant_id
)
SELECT tenant_id,
    coalesce(concurrent_runs, %(concurrent_runs)s), coalesce(gpu_hours, %(gpu_hours)s),
    coalesce(held.runs, 0) + coalesce(offered.runs, 0),
    (coalesce(charged.used_s, 0) + coalesce(held.used_s, 0)) / 3600
FROM busy LEFT JOIN quotas USING (tenant_id) LEFT JOIN held USING (tenant_id)
    LEFT JOIN offered USING (tenant_id) LEFT JOIN charged USING (tenant_id)
""")
# Whose quota may be used up, or whose runs wait for one: a tenant with limits of its own, with use
# this month, or with runs that are held, offered or wait. All others are below every default.
_BUSY: Final = SQL("""
    SELECT tenant_id FROM quotas
    UNION SELECT tenant_id FROM monthly_usage WHERE {is_this_month}
    UNION SELECT tenant_id FROM runs WHERE lease_until IS NOT NULL
    UNION SELECT tenant_id FROM runs WHERE {is_offered}
    UNION SELECT tenant_id FROM runs WHERE status = 'queued' AND stage = 'quota'
""").format(is_this_month=IS_THIS_MONTH, is_offered=IS_OFFERED)


def _use_of(busy: Composable) -> Composed:
    return _USE.format(
        busy=busy,
        uncharged_s=UNCHARGED_S,
        is_offered=IS_OFFERED,
        is_this_month=IS_THIS_MONTH,
    )


_USE_OF_ALL: Final = _use_of(_BUSY)
_USE_OF_ONE: Final = _use_of(SQL("SELECT %(tenant_id)s::text AS tenant_id"))


def starts(conn: Connection, defaults: Quotas) -> dict[str, Starts]:
    """Tenant id → how many of its runs may start now; without tenants that are far from a limit."""
    return _starts(conn, _USE_OF_ALL, asdict(defaults))


def room(conn: Connection, tenant_id: str, defaults: Quotas) -> int:
    """How many more runs of a tenant may start now."""
    return _starts(conn, _USE_OF_ONE, {**asdict(defaults), "tenant_id": tenant_id})[tenant_id].room


def _starts(conn: Connection, query: Composed, facts: Mapping[str, Any]) -> dict[str, Starts]:
    return {
        tenant_id: starts_of(
            concurrent_runs=concurrent_runs,
            gpu_hours=gpu_hours,
            runs=runs,
            used_hours=float(used_hours),
        )
        for tenant_id, concurrent_runs, gpu_hours, runs, used_hours in conn.execute(query, facts)
    }


_STOP: Final = """
UPDATE runs SET must_stop = true WHERE run_id IN (
    SELECT run_id FROM runs
    WHERE tenant_id = ANY(%s) AND lease_until IS NOT NULL AND status = 'running' AND NOT must_stop
    FOR UPDATE SKIP LOCKED)
"""


def stop_runs(conn: Connection, starts: Mapping[str, Starts]) -> None:
    """Ask the holders of runs whose tenant has used up its GPU-hours to hand them back.

    A holder reads the request at its next renewal, and stores a checkpoint first.
    """
    if tenants := [tenant_id for tenant_id, each in starts.items() if each.must_stop]:
        conn.execute(_STOP, (tenants,))


# Of tenants of which no run may start: the runs that must wait, and those that wait for a reason
# that has changed. An offered run counts as one that trains, so it stays.
_TO_HOLD: Final = """
WITH reasons AS (
    SELECT * FROM unnest(%(tenants)s::text[], %(codes)s::text[]) AS given (tenant_id, code)
)
SELECT run_id, tenant_id FROM runs JOIN reasons USING (tenant_id)
WHERE status = 'queued' AND stage = 'capacity'
    AND (offered_until IS NULL OR offered_until <= clock_timestamp())
    AND (ring_after IS NULL OR ring_after <= clock_timestamp())
UNION ALL
SELECT run_id, tenant_id FROM runs JOIN reasons USING (tenant_id)
WHERE status = 'queued' AND stage = 'quota' AND status_reason->>'code' IS DISTINCT FROM code
LIMIT %(limit)s
"""
# Of the others: in each GPU class as many runs as may start, the first in line.
_TO_RELEASE: Final = SQL("""
WITH rooms AS (
    SELECT * FROM unnest(%(tenants)s::text[], %(rooms)s::bigint[]) AS given (tenant_id, room)
    WHERE EXISTS (
        SELECT FROM runs
        WHERE runs.tenant_id = given.tenant_id AND status = 'queued' AND stage = 'quota')
)
SELECT run_id FROM (
    SELECT run_id, stage, room, row_number() OVER (
            PARTITION BY tenant_id, gpu_class ORDER BY {order}) AS place
    FROM runs JOIN rooms USING (tenant_id)
    WHERE status = 'queued' AND stage IN ('capacity', 'quota')
        AND (offered_until IS NULL OR offered_until <= clock_timestamp())
) AS line
WHERE stage = 'quota' AND place <= room ORDER BY place LIMIT %(limit)s
""").format(order=line.ORDER)


def moves(
    conn: Connection, starts: Mapping[str, Starts], limit: int, *, aging: timedelta
) -> list[tuple[str, Failure | None]]:
    """Runs that have to wait for a quota, with the reason, and runs that may go on, with None.

    Call ``move`` for each. A tenant's runs go on only as it has room for them, so that a long queue
    is not moved to and fro whenever one run ends.
    """
    reasons = {tenant_id: each.reason for tenant_id, each in starts.items() if each.reason}
    rooms = {tenant_id: each.room for tenant_id, each in starts.items() if not each.reason}
    facts = {
        "tenants": list(reasons),
        "codes": [reason.code for reason in reasons.values()],
        "limit": limit,
    }
    found: list[tuple[str, Failure | None]] = [
        (run_id, reasons[tenant_id]) for run_id, tenant_id in conn.execute(_TO_HOLD, facts)
    ]
    facts = {
        "tenants": list(rooms),
        "rooms": list(rooms.values()),
        "limit": limit,
        "aging_s": seconds(aging),
    }
    return found + [(run_id, None) for (run_id,) in conn.execute(_TO_RELEASE, facts)]


_LOCK: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND status = 'queued' AND stage IN ('capacity', 'quota')
    AND (offered_until IS NULL OR offered_until <= clock_timestamp())
FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run))


def move(conn: Connection, run_id: str, reason: Failure | None) -> None:
    """Let the run wait for a quota, for this reason, or for a worker where there is none.

    No change where it was offered or canceled meanwhile.
    """
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK, (run_id,)).fetchone()
    if run is not None:
        stage = Stage.CAPACITY if reason is None else Stage.QUOTA
        transitions.change_stage(conn, run, stage, reason=reason)
