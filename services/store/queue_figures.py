"""Figures of what waits and what failed, for the operator's metrics; each is read by an index."""

from datetime import timedelta
from typing import Final

from psycopg.rows import class_row

from services.metrics.queue import FailedRuns, OpenRuns, PendingRows, QueueFigures, Workers
from services.store.database import Connection, seconds

# Tenants are grouped by their weight: a label for each of them would be a series for each of them.
_RUNS: Final = """
SELECT runs.gpu_class, runs.status, coalesce(stage, '') AS stage,
    CASE WHEN weight < 1 THEN 'below' WHEN weight > 1 THEN 'above' ELSE 'standard' END
        AS tenant_class,
    count(*) AS runs,
    greatest(0, extract(epoch FROM clock_timestamp() - min(queued_at)))::float8 AS oldest_s
FROM runs JOIN tenants USING (tenant_id)
WHERE status NOT IN ('succeeded', 'failed', 'canceled')
GROUP BY runs.gpu_class, runs.status, stage, tenant_class
"""
_WORKERS: Final = """
SELECT kind, gpu_class, state, reason, count(*) AS workers FROM (
    SELECT kind, gpu_class,
        CASE WHEN heartbeat_at < clock_timestamp() - make_interval(secs => %(silence_s)s)
                THEN 'silent'
            WHEN draining THEN 'draining' WHEN run_id IS NOT NULL THEN 'busy' ELSE 'free' END
            AS state,
        CASE WHEN draining THEN coalesce(drain_reason->>'code', '') ELSE '' END AS reason
    FROM workers
) AS each GROUP BY kind, gpu_class, state, reason
"""
_PENDING: Final = """
SELECT 'dataset' AS kind, count(*) AS rows,
    coalesce(extract(epoch FROM clock_timestamp() - min(updated_at)), 0)::float8 AS oldest_s
FROM datasets WHERE ring_after IS NOT NULL
UNION ALL
SELECT 'shard', count(*),
    coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
FROM cache_shards WHERE ring_after IS NOT NULL
UNION ALL
SELECT 'publication', count(*),
    coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
FROM publications WHERE ring_after IS NOT NULL
UNION ALL
SELECT 'import', count(*),
    coalesce(extract(epoch FROM clock_timestamp() - min(datasets.updated_at)), 0)::float8
FROM dataset_imports AS import JOIN datasets USING (tenant_id, dataset_id)
WHERE import.ring_after IS NOT NULL
"""

_FAILED: Final = """
SELECT status_reason->>'category' AS category, status_reason->>'code' AS code, count(*) AS runs
FROM runs
WHERE status = 'failed' AND status_reason IS NOT NULL
    AND finished_at > clock_timestamp() - interval '1 hour'
GROUP BY category, code
"""


def read(conn: Connection, *, silence: timedelta) -> QueueFigures:
    """All figures.

    Args:
        silence: a worker without a heartbeat for this long is silent.
    """
    with conn.cursor(row_factory=class_row(OpenRuns)) as cursor:
        runs = cursor.execute(_RUNS).fetchall()
    with conn.cursor(row_factory=class_row(Workers)) as cursor:
        workers = cursor.execute(_WORKERS, {"silence_s": seconds(silence)}).fetchall()
    with conn.cursor(row_factory=class_row(PendingRows)) as cursor:
        pending = cursor.execute(_PENDING).fetchall()
    with conn.cursor(row_factory=class_row(FailedRuns)) as cursor:
        failed = cursor.execute(_FAILED).fetchall()
    return QueueFigures(runs=runs, workers=workers, pending=pending, failed=failed)
