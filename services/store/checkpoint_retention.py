"""Which checkpoints of a run are kept: the newest, the best, and those that something reads."""

from collections.abc import Mapping
from typing import Any, Final

from services.domain.errors import NotFoundError
from services.store import run_documents
from services.store.database import Connection

# A checkpoint that is being published, or that an open run starts from, stays until that has ended.
_RETIRE: Final = """
DELETE FROM checkpoints WHERE run_id = %(run_id)s AND step NOT IN (
    SELECT step FROM checkpoints WHERE run_id = %(run_id)s
    ORDER BY %(limit)s > 1 AND step IS NOT DISTINCT FROM %(best)s::integer DESC, step DESC
    LIMIT %(limit)s)
AND NOT EXISTS (
    SELECT FROM publications
    WHERE publications.tenant_id = checkpoints.tenant_id
        AND publications.run_id = checkpoints.run_id AND checkpoint_step = step
        AND publications.status IN ('pending', 'running'))
AND NOT EXISTS (
    SELECT FROM runs AS later
    WHERE later.tenant_id = checkpoints.tenant_id
        AND later.start_adapter ->> 'source' = checkpoints.run_id
        AND (later.start_adapter ->> 'step')::bigint = checkpoints.step
        AND later.status NOT IN ('succeeded', 'failed', 'canceled'))
"""
_SWEEP_SOON: Final = """
UPDATE runs SET sweep_after = least(sweep_after, clock_timestamp()) WHERE run_id = %(run_id)s
"""


def retire(conn: Connection, run_id: str, plan: Mapping[str, Any]) -> None:
    """Delete the rows of older checkpoints; the sweep deletes their files. The run is locked.

    Of two or more that are kept, one is that with the lowest evaluation loss.
    """
    operation = plan["operation"]
    best = _best_step(conn, run_id) if operation.get("evaluation") else None
    facts = {"run_id": run_id, "limit": operation["checkpoints_total_limit"], "best": best}
    if conn.execute(_RETIRE, facts).rowcount:
        conn.execute(_SWEEP_SOON, {"run_id": run_id})


# Where an attempt has measured a step again, the later one counts. A JSON number may be larger than
# any float. Checkpoints are few, and an index has what was measured at a step.
_BEST: Final = """
SELECT step FROM checkpoints CROSS JOIN LATERAL (
    SELECT data -> 'mean' AS mean FROM events
    WHERE events.tenant_id = checkpoints.tenant_id AND events.run_id = checkpoints.run_id
        AND events.step = checkpoints.step AND type = 'eval' AND data ->> 'name' = 'evaluation'
    ORDER BY seq DESC LIMIT 1
) AS measured
WHERE run_id = %s AND jsonb_typeof(mean) = 'number' ORDER BY mean::numeric, step LIMIT 1
"""


def _best_step(conn: Connection, run_id: str) -> int | None:
    """The step of the checkpoint with the lowest evaluation loss; None where none has one."""
    found = conn.execute(_BEST, (run_id,)).fetchone()
    return None if found is None else found[0]


_LOCK: Final = """
SELECT FROM runs WHERE tenant_id = %s AND run_id = %s AND deleted_at IS NULL FOR NO KEY UPDATE
"""


def keep_checkpoints(conn: Connection, tenant_id: str, run_id: str) -> None:
    """No checkpoint of the run is stored or deleted until the transaction ends.

    Not FOR UPDATE, as in ``runs.lock``: a clone of the run that is being inserted keeps the run's
    key (``parent_run_id``) while it waits for the tenant's lock, and the caller has that. Raises
    NotFoundError.
    """
    if not _is_locked(conn, tenant_id, run_id):
        raise NotFoundError("run", run_id)


def retire_unneeded(conn: Connection, tenant_id: str, run_id: str) -> None:
    """As ``retire``, after the publication of a checkpoint, or a run from it, has ended.

    Locks the run whose checkpoints they are, as ``keep_checkpoints`` does.
    """
    if _is_locked(conn, tenant_id, run_id):
        retire(conn, run_id, run_documents.read_plan(conn, tenant_id, run_id))


def _is_locked(conn: Connection, tenant_id: str, run_id: str) -> bool:
    """Lock the run; False where it is not there, or deleted."""
    return conn.execute(_LOCK, (tenant_id, run_id)).fetchone() is not None
