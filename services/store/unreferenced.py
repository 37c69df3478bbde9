"""Finding objects of a run that no row references any more, so that they can be deleted."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store import restore_guard
from services.store.database import Connection, columns_of, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunToSweep:
    """A run that may have unreferenced objects.

    List its objects first and call ``referenced_prefixes`` afterwards, so that a commit in between
    counts as a reference.
    """

    run_id: str
    tenant_id: str
    fence: int
    """Attempts with an older fence have ended."""
    is_held: bool
    """Whether the attempt with ``fence`` may still write: keep its objects that are newer than
    ``checkpoint_step``."""
    checkpoint_step: int
    sweep_after: datetime
    """``mark_swept`` compares it."""


_TO_SWEEP: Final = SQL("""
SELECT {columns} FROM (
    SELECT run_id, tenant_id, fence, lease_until IS NOT NULL AS is_held, checkpoint_step,
        sweep_after
    FROM runs WHERE sweep_after < clock_timestamp() AND NOT {is_restored}
) AS due ORDER BY sweep_after LIMIT %s
""").format(columns=columns_of(RunToSweep), is_restored=restore_guard.IS_RESTORED)


def runs_to_sweep(conn: Connection, limit: int = 20) -> list[RunToSweep]:
    """Runs that are due for a sweep, the longest due first; none where the database is restored."""
    with conn.cursor(row_factory=class_row(RunToSweep)) as cursor:
        return cursor.execute(_TO_SWEEP, (limit,)).fetchall()


_SAMPLES: Final = "SELECT fence, sha256 FROM run_samples WHERE tenant_id = %s AND run_id = %s"


def samples(conn: Connection, run: RunToSweep) -> list[tuple[int, str]]:
    """The run's pictures: of each the fence of the attempt that made it, and its SHA-256."""
    return conn.execute(_SAMPLES, (run.tenant_id, run.run_id)).fetchall()


_REFERENCED: Final = """
SELECT key_prefix FROM checkpoints WHERE run_id = %(run_id)s
UNION
SELECT result_key_prefix FROM runs WHERE run_id = %(run_id)s AND result_key_prefix IS NOT NULL
"""


def referenced_prefixes(conn: Connection, run_id: str) -> frozenset[str] | None:
    """Key prefixes, each ending in ``/``, of the run's checkpoints and its result.

    None where the database was restored: then the objects know more than the rows.
    """
    if restore_guard.is_restored(conn):
        return None
    return frozenset(row[0] for row in conn.execute(_REFERENCED, {"run_id": run_id}))


_SWEPT: Final = "UPDATE runs SET sweep_after = NULL WHERE run_id = %s AND sweep_after = %s"


def mark_swept(conn: Connection, run: RunToSweep) -> None:
    """Record the sweep, unless the run became due again meanwhile."""
    conn.execute(_SWEPT, (run.run_id, run.sweep_after))


_POSTPONE: Final = """
UPDATE runs SET sweep_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND run_id = %s AND sweep_after = %s
"""


def postpone(conn: Connection, run: RunToSweep, *, after: timedelta) -> None:
    """Let the run be due again after this time, unless it became so meanwhile."""
    conn.execute(_POSTPONE, (seconds(after), run.tenant_id, run.run_id, run.sweep_after))
