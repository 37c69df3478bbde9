"""Deleting rows by their age, some at a time."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store import restore_guard
from services.store.database import Connection, columns_of, seconds

# The age is looked at again where a request takes the key anew at the same time.
_DELETE_KEYS: Final = """
DELETE FROM idempotency_keys
WHERE created_at < clock_timestamp() - make_interval(secs => %(age_s)s) AND ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys
    WHERE created_at < clock_timestamp() - make_interval(secs => %(age_s)s) LIMIT %(limit)s))
"""


def delete_idempotency_keys(conn: Connection, *, age: timedelta, limit: int) -> int:
    """Delete keys that no longer count; returns how many."""
    return conn.execute(_DELETE_KEYS, {"age_s": seconds(age), "limit": limit}).rowcount


@dataclass(frozen=True, kw_only=True, slots=True)
class OldRun:
    """A run that has been over for long."""

    run_id: str
    tenant_id: str


_OLD_RUNS: Final = SQL("""
SELECT {columns} FROM runs
WHERE finished_at < clock_timestamp() - make_interval(secs => %s) AND thinned_at IS NULL
    AND finished_at IS NOT NULL AND NOT {is_restored}
ORDER BY finished_at LIMIT %s
""").format(columns=columns_of(OldRun), is_restored=restore_guard.IS_RESTORED)


def old_runs(conn: Connection, *, age: timedelta, limit: int) -> list[OldRun]:
    """Runs to ``thin``, those first that ended first. None where the database is restored."""
    with conn.cursor(row_factory=class_row(OldRun)) as cursor:
        return cursor.execute(_OLD_RUNS, (seconds(age), limit)).fetchall()


KEPT_STEPS: Final = 100
"""Of the step events, those of every hundredth step stay, and that of the last one."""
_THIN_EVENTS: Final = """
DELETE FROM events
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND seq = ANY (ARRAY(
    SELECT seq FROM events JOIN runs USING (tenant_id, run_id)
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND type = 'step'
        AND events.step %% %(kept_steps)s <> 0 AND events.step <> runs.step
    LIMIT %(limit)s))
"""
_DELETE_LOGS: Final = """
DELETE FROM run_logs
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND start_byte = ANY (ARRAY(
    SELECT start_byte FROM run_logs
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s LIMIT %(limit)s))
"""
_THINNED: Final = """
UPDATE runs SET thinned_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
"""


def thin(conn: Connection, run: OldRun, *, limit: int) -> int:
    """Delete some of the step events and logs; 0 where it is done.

    Args:
        limit: at most as many of each.
    """
    facts = {
        "tenant_id": run.tenant_id,
        "run_id": run.run_id,
        "kept_steps": KEPT_STEPS,
        "limit": limit,
    }
    num_deleted = conn.execute(_THIN_EVENTS, facts).rowcount
    num_deleted += conn.execute(_DELETE_LOGS, facts).rowcount
    if num_deleted == 0:
        conn.execute(_THINNED, facts)
    return num_deleted
