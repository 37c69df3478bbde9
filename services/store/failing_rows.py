"""Runs with which the service cannot go on now: postponed with a reason, or failed.

A row that another transaction has locked is skipped, so that nobody waits for it.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.failures import backoff, database_busy
from services.domain.states import OVER, RunStatus
from services.store import transitions
from services.store.database import Connection, columns_of, seconds
from services.store.run_rows import Run
from trainer_core.process.failure import Failure, failure_as_json

MAX_FAILURES: Final = 5
"""Consecutive unexpected errors after which the run fails."""
_BUSY_PAUSE: Final = timedelta(seconds=10)
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(minutes=5)

_UNTOUCHED: Final = OVER | {RunStatus.PAUSED}
"""The service does not work on a run in one of these."""

# A run with a valid lease belongs to its holder.
_LOCK: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND (lease_until IS NULL OR lease_until < clock_timestamp())
FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run))
_POSTPONE: Final = """
UPDATE runs SET status_reason = %(reason)s, dispatch_failures = %(failures)s,
    ring_after = clock_timestamp() + make_interval(secs => %(after_s)s)
WHERE run_id = %(run_id)s
"""


def postpone(conn: Connection, run_id: str, *, after: timedelta, reason: Failure) -> None:
    """Postpone the run; the tenant sees the reason. This is not counted as a failure."""
    run = _lock(conn, run_id)
    if run is not None:
        _postpone(conn, run, after, reason, run.dispatch_failures)


def postpone_busy(conn: Connection, run_id: str) -> None:
    """Postpone a run whose rows were locked, or whose statement took too long."""
    postpone(conn, run_id, after=_BUSY_PAUSE, reason=database_busy())


def count_failure(conn: Connection, run_id: str, reason: Failure) -> None:
    """Count an unexpected error: the run is postponed for longer each time; the fifth fails it.

    Args:
        reason: shown to the tenant while the run is postponed, and in the end as not retryable.
    """
    run = _lock(conn, run_id)
    if run is None:
        return
    failures = run.dispatch_failures + 1
    if failures < MAX_FAILURES:
        after = backoff(run.dispatch_failures, first=_FIRST_PAUSE, limit=_LONGEST_PAUSE)
        _postpone(conn, run, after, reason, failures)
        return
    reason = replace(reason, retryable=False)
    if run.is_held:
        run = transitions.release(conn, run, "lost", reason)
    if run.status == RunStatus.CANCELING:
        transitions.change_status(conn, run, RunStatus.CANCELED)
    else:
        transitions.change_status(conn, run, RunStatus.FAILED, reason=reason)


def _lock(conn: Connection, run_id: str) -> Run | None:
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK, (run_id,)).fetchone()
    return None if run is None or RunStatus(run.status) in _UNTOUCHED else run


def _postpone(conn: Connection, run: Run, after: timedelta, reason: Failure, failures: int) -> None:
    facts = {
        "run_id": run.run_id,
        "after_s": seconds(after),
        "reason": Jsonb(failure_as_json(reason)),
        "failures": failures,
    }
    conn.execute(_POSTPONE, facts)
