"""Why runs wait, for the pages that show them: one query, however many runs are shown."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.states import RunStatus, Stage
from services.domain.waiting import PlaceInLine, Waiting, waiting_for
from services.store import line
from services.store.database import Connection, seconds
from services.store.run_rows import Run

_PLACES: Final = SQL("""
WITH shown AS MATERIALIZED (
    SELECT run_id, position FROM (
        SELECT run_id, row_number() OVER (PARTITION BY gpu_class ORDER BY {order}) AS position
        FROM runs
        WHERE tenant_id = %(tenant_id)s AND gpu_class = ANY(%(gpu_classes)s)
            AND status NOT IN ('succeeded', 'failed', 'canceled')
            AND (status = 'queued' OR (status = 'running' AND stage = 'caching'))
    ) AS line WHERE run_id = ANY(%(run_ids)s)
), own AS (
    SELECT gpu_class, count(*) AS own_starts FROM attempts
    WHERE tenant_id = %(tenant_id)s AND gpu_class = ANY(%(gpu_classes)s)
        AND started_at > clock_timestamp() - interval '1 hour'
    GROUP BY gpu_class
)
SELECT run_id, gpu_class, position,
    coalesce(ring_after > clock_timestamp(), false) AS is_postponed,
    stage = 'admission' AND EXISTS (
        SELECT FROM jsonb_each_text(runs.datasets) AS named
            JOIN datasets ON dataset_id = named.value
        WHERE datasets.tenant_id = runs.tenant_id AND datasets.status <> 'ready') AS lacks_data,
    EXISTS (
        SELECT FROM workers
        WHERE kind = 'trainer' AND workers.gpu_class = runs.gpu_class AND NOT draining
            AND heartbeat_at > clock_timestamp() - make_interval(secs => %(silence_s)s)
    ) AS has_workers,
    coalesce(own_starts, 0) AS own_starts, pace.starts AS class_starts, pace.tenants AS tenants
FROM shown JOIN runs USING (run_id)
    JOIN gpu_class_pace(%(gpu_classes)s) AS pace USING (gpu_class)
    LEFT JOIN own USING (gpu_class)
WHERE tenant_id = %(tenant_id)s
""").format(order=line.ORDER)


def of_runs(
    conn: Connection, tenant_id: str, runs: Sequence[Run], *, aging: timedelta, silence: timedelta
) -> dict[str, Waiting]:
    """Run id → why it waits, for those of the tenant's runs that wait.

    Args:
        aging: as in ``offers.take_offers``.
        silence: a worker without a heartbeat for this long is not counted.
    """
    by_id = {run.run_id: run for run in runs if _waits(run)}
    if not by_id:
        return {}
    facts = {
        "tenant_id": tenant_id,
        "run_ids": list(by_id),
        "gpu_classes": list({run.gpu_class for run in by_id.values()}),
        "aging_s": seconds(aging),
        "silence_s": seconds(silence),
    }
    with conn.cursor(row_factory=class_row(PlaceInLine)) as cursor:
        places = cursor.execute(_PLACES, facts).fetchall()
    found: dict[str, Waiting] = {}
    for place in places:
        run = by_id[place.run_id]
        found[run.run_id] = waiting_for(run.status, run.stage, run.status_reason, place)
    return found


# Behind the tenant's own runs of its priority or a higher one.
_NEW_PLACE: Final = """
SELECT '' AS run_id, pace.gpu_class,
    1 + (
        SELECT count(*) FROM runs
        WHERE tenant_id = %(tenant_id)s AND runs.gpu_class = pace.gpu_class
            AND priority >= %(priority)s
            AND status NOT IN ('succeeded', 'failed', 'canceled')
            AND (status = 'queued' OR (status = 'running' AND stage = 'caching'))
    ) AS position,
    false AS is_postponed, false AS lacks_data,
    EXISTS (
        SELECT FROM workers
        WHERE kind = 'trainer' AND workers.gpu_class = pace.gpu_class AND NOT draining
            AND heartbeat_at > clock_timestamp() - make_interval(secs => %(silence_s)s)
    ) AS has_workers,
    (
        SELECT count(*) FROM attempts
        WHERE tenant_id = %(tenant_id)s AND attempts.gpu_class = pace.gpu_class
            AND started_at > clock_timestamp() - interval '1 hour'
    ) AS own_starts, pace.starts AS class_starts, pace.tenants AS tenants
FROM gpu_class_pace(ARRAY[%(gpu_class)s::text]) AS pace
"""


def of_new_run(
    conn: Connection, tenant_id: str, gpu_class: str, *, priority: int, silence: timedelta
) -> Waiting:
    """What a run would wait for once its data is read and cached, if it were submitted now."""
    facts = {
        "tenant_id": tenant_id,
        "gpu_class": gpu_class,
        "priority": priority,
        "silence_s": seconds(silence),
    }
    with conn.cursor(row_factory=class_row(PlaceInLine)) as cursor:
        place = cursor.execute(_NEW_PLACE, facts).fetchone()
    assert place is not None
    return waiting_for(RunStatus.QUEUED, Stage.CAPACITY, None, place)


def _waits(run: Run) -> bool:
    is_cached = run.status == RunStatus.RUNNING and run.stage == Stage.CACHING
    return run.status == RunStatus.QUEUED or is_cached
