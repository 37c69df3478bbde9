"""Limits of runs: what a run may still use, and the runs that have reached a limit."""

from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain import run_limits
from services.domain.run_limits import LimitedUse
from services.store.database import Connection
from services.store.run_rows import Run
from trainer_core.process.failure import Failure

# Of a run that is held, the attempt has the price; its next attempt has the price of that moment.
_USE: Final = """
SELECT max_cost_micros, max_gpu_s, deadline,
    coalesce(deadline <= clock_timestamp(), false) AS is_past_deadline,
    runs.cost_micros, runs.charged_s,
    coalesce(attempts.price_micros_per_hour, gpu_classes.price_micros_per_hour, 0)
        AS price_micros_per_hour
FROM runs
    LEFT JOIN attempts ON attempts.run_id = runs.run_id AND attempts.tenant_id = runs.tenant_id
        AND attempts.fence = runs.fence AND attempts.outcome IS NULL
    LEFT JOIN gpu_classes ON gpu_classes.gpu_class = runs.gpu_class
WHERE runs.run_id = %s AND runs.tenant_id = %s
"""


def reached(conn: Connection, run: Run) -> Failure | None:
    """The limit that the run has reached by what was charged so far; None where it may go on."""
    return run_limits.reached(_use_of(conn, run)) if run.is_limited else None


def budget_s(conn: Connection, run: Run) -> float | None:
    """Seconds that may still be charged to the run; None where nothing limits them."""
    return run_limits.budget_s(_use_of(conn, run)) if run.is_limited else None


def _use_of(conn: Connection, run: Run) -> LimitedUse:
    with conn.cursor(row_factory=class_row(LimitedUse)) as cursor:
        use = cursor.execute(_USE, (run.run_id, run.tenant_id)).fetchone()
    assert use is not None
    return use


IS_REACHED: Final = SQL("""(coalesce(deadline <= clock_timestamp(), false)
    OR coalesce(cost_micros >= max_cost_micros, false)
    OR coalesce(charged_s >= max_gpu_s, false))""")
"""SQL condition: the run has reached one of its limits."""

_REACHED: Final = """
SELECT run_id FROM runs WHERE status IN ('queued', 'running') AND deadline <= clock_timestamp()
UNION
SELECT run_id FROM runs
WHERE status IN ('queued', 'running') AND (max_cost_micros IS NOT NULL OR max_gpu_s IS NOT NULL)
    AND (cost_micros >= max_cost_micros OR charged_s >= max_gpu_s)
LIMIT %s
"""


def runs_at_limits(conn: Connection, limit: int) -> list[str]:
    """Runs that wait or work although they have reached a limit; ``run_control.pause_at_limit``."""
    return [run_id for (run_id,) in conn.execute(_REACHED, (limit,))]


_NOW: Final = "SELECT clock_timestamp()"


def now(conn: Connection) -> datetime:
    """The time by which deadlines pass."""
    row = conn.execute(_NOW).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
