"""Brings the runs of a restored database up to what the object store has of them."""

from dataclasses import dataclass, replace
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.failures import database_restored
from services.domain.ledger import StoredCheckpoint
from services.store import commits, outcomes, restore_guard, transitions
from services.store.database import Connection, columns_of
from services.store.run_rows import Run
from trainer_core.process.failure import failure_as_json

FENCE_STEP: Final = 1_000_000
"""Added to every fence. Attempts that were claimed after the backup may have left no object, so
their fences are unknown; there cannot have been so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run that is not over and may have objects."""

    run_id: str
    tenant_id: str


_OPEN_RUNS: Final = """
SELECT run_id, tenant_id FROM runs
WHERE status NOT IN ('succeeded', 'failed', 'canceled') ORDER BY run_id
"""


def open_runs(conn: Connection) -> list[OpenRun]:
    """All runs that are not over."""
    with conn.cursor(row_factory=class_row(OpenRun)) as cursor:
        return cursor.execute(_OPEN_RUNS).fetchall()


_RUN_IDS: Final = "SELECT run_id FROM runs WHERE tenant_id = %s"
_TENANTS: Final = "SELECT tenant_id FROM tenants ORDER BY tenant_id"


def run_ids_by_tenant(conn: Connection) -> dict[str, frozenset[str]]:
    """Tenant → ids of all its runs."""
    tenant_ids = [row[0] for row in conn.execute(_TENANTS)]
    return {
        tenant_id: frozenset(row[0] for row in conn.execute(_RUN_IDS, (tenant_id,)))
        for tenant_id in tenant_ids
    }


_CHECKPOINT_STEPS: Final = """
SELECT key_prefix, step FROM checkpoints WHERE run_id = %s AND tenant_id = %s
"""


def checkpoint_steps(conn: Connection, run: OpenRun) -> dict[str, int]:
    """Key prefix → step of the run's committed checkpoints."""
    return dict(conn.execute(_CHECKPOINT_STEPS, (run.run_id, run.tenant_id)).fetchall())


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundObjects:
    """What the object store has of a run."""

    newest_fence: int
    """The largest fence of an attempt with an object; 0 without one."""
    prefixes: frozenset[str]
    """Of all checkpoints with a manifest."""
    newer: StoredCheckpoint | None
    """A complete checkpoint that is newer than all committed ones."""
    newer_fence: int = 0
    """Of the attempt that wrote it."""


_LOCK_RUN: Final = SQL("""
SELECT {columns} FROM runs WHERE run_id = %s AND tenant_id = %s
    AND status NOT IN ('succeeded', 'failed', 'canceled') FOR UPDATE
""").format(columns=columns_of(Run))
_FORGET_MISSING: Final = """
DELETE FROM checkpoints
WHERE run_id = %(run_id)s AND tenant_id = %(tenant_id)s AND key_prefix <> ALL(%(prefixes)s)
"""
_RAISE_FENCE: Final = SQL("""
UPDATE runs SET fence = greatest(fence, %(newest_fence)s) + %(fence_step)s,
    checkpoint_step = coalesce((SELECT max(step) FROM checkpoints
        WHERE checkpoints.run_id = runs.run_id AND checkpoints.tenant_id = runs.tenant_id), 0),
    sweep_after = coalesce(sweep_after, clock_timestamp() + interval '20 minutes'),
    version = version + 1, updated_at = clock_timestamp()
WHERE run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Run))


def reconcile_run(conn: Connection, open_run: OpenRun, found: FoundObjects) -> int | None:
    """End the run's attempt, raise its fence, and take over its newest checkpoint.

    Returns the step that it resumes from; None where it is over, or where the database counts as
    reconciled already. Repeating it is harmless.
    """
    if not restore_guard.is_restored(conn):
        return None
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_RUN, (open_run.run_id, open_run.tenant_id)).fetchone()
    if run is None:
        return None
    known_step = run.checkpoint_step
    if run.is_held:
        run = outcomes.end_stopped(conn, run)
        if run.is_over:
            return None
    facts = {
        "run_id": run.run_id,
        "tenant_id": run.tenant_id,
        "prefixes": list(found.prefixes),
        "newest_fence": found.newest_fence,
        "fence_step": FENCE_STEP,
    }
    conn.execute(_FORGET_MISSING, facts)
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        raised = cursor.execute(_RAISE_FENCE, facts).fetchone()
    assert raised is not None
    step = raised.checkpoint_step
    if found.newer is not None and found.newer.step > step:
        commits.checkpoint(conn, replace(raised, fence=found.newer_fence), found.newer)
        step = found.newer.step
    data = {
        "reason": failure_as_json(database_restored()),
        "known_step": known_step,
        "checkpoint_step": step,
    }
    transitions.announce(conn, raised, "run.restored", data)
    return step
