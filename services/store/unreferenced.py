"""What the object store may lose: everything below a run's folder that no row names any more."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RunToSweep:
    """A run with objects that may be garbage.

    Look in this order: list the objects first, then ask ``live_prefixes`` and ``open_fence``; what
    was committed in between is then known as alive.
    """

    run_id: str
    tenant_id: str
    fence: int
    """Attempts under an older fence are over."""
    is_held: bool
    """Whether the attempt under ``fence`` may still write; leave what it has newer than
    ``checkpoint_step`` alone."""
    checkpoint_step: int
    sweep_after: datetime
    """Hand it back to ``swept``."""


_TO_SWEEP: Final = SQL("""
SELECT {columns} FROM (
    SELECT run_id, tenant_id, fence, lease_until IS NOT NULL AS is_held, checkpoint_step,
        sweep_after
    FROM runs WHERE sweep_after < clock_timestamp()
) AS due ORDER BY sweep_after LIMIT %s
""").format(columns=columns_of(RunToSweep))


def runs_to_sweep(conn: Connection, limit: int = 20) -> list[RunToSweep]:
    """Runs whose time has come, longest due first: over, given back or with old checkpoints."""
    with conn.cursor(row_factory=class_row(RunToSweep)) as cursor:
        return cursor.execute(_TO_SWEEP, (limit,)).fetchall()


_LIVE: Final = """
SELECT key_prefix FROM checkpoints WHERE run_id = %(run_id)s
UNION
SELECT result_key_prefix FROM runs WHERE run_id = %(run_id)s AND result_key_prefix IS NOT NULL
"""


def live_prefixes(conn: Connection, run_id: str) -> frozenset[str]:
    """Key prefixes, each ending in ``/``, of the checkpoints and the result that rows name."""
    return frozenset(row[0] for row in conn.execute(_LIVE, {"run_id": run_id}))


_SWEPT: Final = "UPDATE runs SET sweep_after = NULL WHERE run_id = %s AND sweep_after = %s"


def swept(conn: Connection, run: RunToSweep) -> None:
    """Done with this run, unless something new became due meanwhile."""
    conn.execute(_SWEPT, (run.run_id, run.sweep_after))
