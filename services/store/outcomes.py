"""The end of an attempt without a result, and the run's status after it."""

from datetime import timedelta
from typing import Final

from services.domain.failures import attempts_exhausted, backoff
from services.domain.states import RunStatus, Stage
from services.store import transitions
from services.store.database import Connection
from services.store.run_rows import Run
from trainer_core.process.failure import Failure

_FROM_STEP: Final = "SELECT from_step FROM attempts WHERE run_id = %s AND fence = %s"
_FIRST_DELAY: Final = timedelta(seconds=1)
_LONGEST_DELAY: Final = timedelta(minutes=5)


def end_stopped(conn: Connection, run: Run) -> Run:
    """End an attempt that stopped on request; this does not count as a failed attempt."""
    run = transitions.release(
        conn, run, "stopped", None, attempts_without_progress=run.attempts_without_progress
    )
    if ended := _as_requested(conn, run):
        return ended
    return transitions.change_status(conn, run, RunStatus.QUEUED, stage=Stage.CAPACITY)


def end_failed(
    conn: Connection, run: Run, outcome: str, failure: Failure, *, max_attempts: int
) -> Run:
    """End an attempt that failed or was lost: queue the run again after a pause, or fail it.

    Args:
        outcome: ``failed`` or ``lost``.
        max_attempts: the run fails after this many attempts without a new checkpoint.
    """
    without = 0 if _made_progress(conn, run) else run.attempts_without_progress + 1
    run = transitions.release(conn, run, outcome, failure, attempts_without_progress=without)
    if ended := _as_requested(conn, run):
        return ended
    if not failure.retryable:
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=failure)
    if without >= max_attempts:
        reason = attempts_exhausted(without, failure)
        return transitions.change_status(conn, run, RunStatus.FAILED, reason=reason)
    delay = backoff(without, first=_FIRST_DELAY, limit=_LONGEST_DELAY)
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


def _made_progress(conn: Connection, run: Run) -> bool:
    row = conn.execute(_FROM_STEP, (run.run_id, run.fence)).fetchone()
    return row is not None and run.checkpoint_step > row[0]
