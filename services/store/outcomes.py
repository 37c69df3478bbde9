"""The end of an attempt without a result, and the run's status after it."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from services.domain.attempt_budgets import FailedAttempt, Spent, spent
from services.domain.failures import attempts_exhausted, backoff
from services.domain.states import RunStatus, Stage
from services.store import transitions
from services.store.database import Connection
from services.store.run_rows import Run
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

_FIRST_DELAY: Final = timedelta(seconds=1)
_LONGEST_DELAY: Final = timedelta(minutes=5)


def end_stopped(conn: Connection, run: Run) -> Run:
    """End an attempt that stopped on request; this does not count as a failed attempt."""
    run = transitions.release(conn, run, "stopped", None)
    if ended := _as_requested(conn, run):
        return ended
    return transitions.change_status(conn, run, RunStatus.QUEUED, stage=Stage.CAPACITY)


def end_failed(
    conn: Connection,
    run: Run,
    outcome: str,
    failure: Failure,
    *,
    max_attempts: int,
    max_infra_failures: int,
) -> Run:
    """End an attempt that failed or was lost: queue the run again after a pause, or fail it.

    Args:
        outcome: ``failed`` or ``lost``.
        max_attempts: the run fails after this many failures of its own without a new checkpoint.
        max_infra_failures: and after this many attempts of any kind without one.
    """
    run = transitions.release(conn, run, outcome, failure)
    run, counted = _count(conn, run)
    if ended := _as_requested(conn, run):
        return ended
    if not failure.retryable:
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=failure)
    if counted.exhausts(
        max_attempts=max_attempts,
        max_infra_failures=max_infra_failures,
        nodes=_nodes(conn, run.gpu_class),
    ):
        reason = attempts_exhausted(counted.attempts, failure)
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=reason)
    if _lacks_shards(conn, run):
        return transitions.change_stage(conn, run, Stage.CACHING)
    delay = backoff(counted.attempts, first=_FIRST_DELAY, limit=_LONGEST_DELAY)
    return transitions.change_status(
        conn, run, RunStatus.QUEUED, stage=Stage.CAPACITY, reason=failure, ring_after=delay
    )


def _as_requested(conn: Connection, run: Run) -> Run | None:
    """``canceled`` or ``paused`` where the tenant requested it; None where the run may continue."""
    if run.status == RunStatus.CANCELING:
        return transitions.change_status(conn, run, RunStatus.CANCELED)
    if run.status == RunStatus.PAUSING:
        return transitions.change_status(conn, run, RunStatus.PAUSED)
    return None


# An attempt that stored a checkpoint started before the newest one.
_WITHOUT_PROGRESS: Final = """
SELECT reason->>'code', reason->>'category', last_step, node FROM attempts
WHERE run_id = %(run_id)s AND tenant_id = %(tenant_id)s AND from_step = %(checkpoint_step)s
    AND outcome IN ('failed', 'lost')
ORDER BY fence
"""
_SET_COUNTS: Final = """
UPDATE runs SET attempts_without_progress = %(own)s, infra_failures = %(infra)s
WHERE run_id = %(run_id)s
"""


def _count(conn: Connection, run: Run) -> tuple[Run, Spent]:
    facts = {
        "run_id": run.run_id,
        "tenant_id": run.tenant_id,
        "checkpoint_step": run.checkpoint_step,
    }
    counted = spent(
        [
            FailedAttempt(code=code, category=Category(category), last_step=last_step, node=node)
            for code, category, last_step, node in conn.execute(_WITHOUT_PROGRESS, facts)
        ]
    )
    conn.execute(_SET_COUNTS, {**facts, "own": counted.own, "infra": counted.infra})
    run = replace(run, attempts_without_progress=counted.own, infra_failures=counted.infra)
    return run, counted


_NODES: Final = """
SELECT count(DISTINCT node) FROM workers
WHERE kind = 'trainer' AND gpu_class = %s AND NOT draining
    AND heartbeat_at > clock_timestamp() - interval '1 minute'
"""


def _nodes(conn: Connection, gpu_class: str) -> int:
    """Machines whose workers take runs of this class now."""
    row = conn.execute(_NODES, (gpu_class,)).fetchone()
    assert row is not None
    return int(row[0])


_LACKS_SHARDS: Final = """
SELECT EXISTS (
    SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
    WHERE run_shards.run_id = %s AND run_shards.tenant_id = %s AND cache_shards.status <> 'done')
"""


def _lacks_shards(conn: Connection, run: Run) -> bool:
    """Whether a shard of the run is built again, because its content was damaged."""
    return conn.execute(_LACKS_SHARDS, (run.run_id, run.tenant_id)).fetchone() == (True,)
