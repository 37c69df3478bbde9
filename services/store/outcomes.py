"""The end of an attempt without a result, and the run's status after it."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from services.domain.attempt_budgets import FailedAttempt, Spent, spent
from services.domain.failures import ENTRY_MISSING, attempts_exhausted, backoff
from services.domain.states import RunStatus, Stage
from services.store import admission, measured, run_limits, transitions
from services.store.database import Connection
from services.store.run_rows import Run
from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_from_json

_FIRST_DELAY: Final = timedelta(seconds=1)
_LONGEST_DELAY: Final = timedelta(minutes=5)


def end_stopped(conn: Connection, run: Run) -> Run:
    """End an attempt that stopped on request; this does not count as a failed attempt."""
    run = transitions.release(conn, run, "stopped", None)
    measured.record_attempt(conn, run)
    if ended := _canceled(conn, run) or _paused(conn, run):
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
    if canceled := _canceled(conn, run):
        return canceled
    if not failure.retryable:
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=failure)
    if counted.exhausts(
        max_attempts=max_attempts,
        max_infra_failures=max_infra_failures,
        nodes=_nodes(conn, run.gpu_class),
    ):
        reason = attempts_exhausted(counted.attempts, failure)
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=reason)
    if paused := _paused(conn, run):
        return paused
    if admission.place_of(conn, run) == (RunStatus.RUNNING, Stage.CACHING):
        return transitions.change_stage(conn, run, Stage.CACHING)  # a damaged shard is built again
    delay = backoff(counted.attempts, first=_FIRST_DELAY, limit=_LONGEST_DELAY)
    stage = Stage.ADMISSION if failure.code == ENTRY_MISSING else Stage.CAPACITY
    return transitions.change_status(
        conn, run, RunStatus.QUEUED, stage=stage, reason=failure, ring_after=delay
    )


_ENDED: Final = """
SELECT FROM attempts WHERE run_id = %s AND fence = %s AND outcome = %s
"""


def ended_with(conn: Connection, run_id: str, fence: int, outcome: str) -> bool:
    """Whether this attempt is over, and ended in this way."""
    return conn.execute(_ENDED, (run_id, fence, outcome)).fetchone() is not None


def _canceled(conn: Connection, run: Run) -> Run | None:
    if run.status != RunStatus.CANCELING:
        return None
    return transitions.change_status(conn, run, RunStatus.CANCELED)


def _paused(conn: Connection, run: Run) -> Run | None:
    """The run, paused on request or at one of its limits; None where it may go on."""
    if run.status == RunStatus.PAUSING:
        reason = None if run.status_reason is None else failure_from_json(run.status_reason)
        return transitions.change_status(conn, run, RunStatus.PAUSED, reason=reason)
    reason = run_limits.reached(conn, run)
    if reason is None:
        return None
    return transitions.change_status(conn, run, RunStatus.PAUSED, reason=reason)


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
