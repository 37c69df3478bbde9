"""Control of runs: paused, resumed and canceled, by their tenants or at one of their limits."""

from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.errors import LimitReachedError
from services.domain.run_control import Action, status_after
from services.domain.states import RunStatus, Stage
from services.store import admission, run_limits, runs, transitions
from services.store.database import Connection, columns_of
from services.store.run_rows import Run
from trainer_core.process.failure import Failure


def pause(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """Pause the run at once, or request it from the holder, who reads it at its next renewal.

    Idempotent. Raises NotFoundError, and IllegalTransitionError where the run is over or canceled.
    """
    run = runs.lock(conn, tenant_id, run_id)
    return run if _status_after(Action.PAUSE, run) == run.status else pause_run(conn, run)


def pause_run(conn: Connection, run: Run, *, reason: Failure | None = None) -> Run:
    """Pause a queued or running run, whose row is locked.

    Args:
        reason: the limit that it has reached; None where its tenant asked for the pause.
    """
    status = _status_after(Action.PAUSE, run)
    stage = Stage(run.stage) if run.stage and status == RunStatus.PAUSING else None
    return transitions.change_status(conn, run, status, stage=stage, reason=reason)


def resume(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """Let a paused run wait for a worker again, or take a pause back that is not done yet.

    Idempotent. Raises NotFoundError, IllegalTransitionError where the run is over or canceled, and
    LimitReachedError where it would be paused again at once.
    """
    run = runs.lock(conn, tenant_id, run_id)
    status = _status_after(Action.RESUME, run)
    if status == run.status:
        return run
    if (reason := run_limits.reached(conn, run)) is not None:
        raise LimitReachedError(reason)
    stage = Stage(run.stage) if run.stage else None
    if run.status == RunStatus.PAUSED:
        status, stage = admission.place_of(conn, run)
    return transitions.change_status(
        conn,
        run,
        status,
        stage=stage,
        event="run.resumed",
        ring_after=timedelta(0) if stage == Stage.ADMISSION else None,
    )


_CANCEL_NOW: Final = SQL("""
UPDATE runs SET cancel_now = true, version = version + 1, updated_at = clock_timestamp()
WHERE tenant_id = %s AND run_id = %s
RETURNING {columns}
""").format(columns=columns_of(Run))


def cancel(conn: Connection, tenant_id: str, run_id: str, *, now: bool = False) -> Run:
    """Cancel the run at once, or request it from the holder, who reads it at its next renewal.

    Idempotent. Raises NotFoundError, and IllegalTransitionError where the run has already succeeded
    or failed.

    Args:
        now: the holder stores no checkpoint first; also where it was asked for one before.
    """
    run = runs.lock(conn, tenant_id, run_id)
    status = _status_after(Action.CANCEL, run)
    if now and status == RunStatus.CANCELING and not run.cancel_now:
        with conn.cursor(row_factory=class_row(Run)) as cursor:
            hurried = cursor.execute(_CANCEL_NOW, (tenant_id, run_id)).fetchone()
        assert hurried is not None
        run = hurried
    if status == run.status:
        return run
    run = transitions.change_status(conn, run, RunStatus.CANCELING, stage=Stage.STOPPING)
    if status == RunStatus.CANCELED:
        run = transitions.change_status(conn, run, RunStatus.CANCELED)
    return run


def _status_after(action: Action, run: Run) -> RunStatus:
    return status_after(action, RunStatus(run.status), is_held=run.is_held)


_LOCK_AT_LIMIT: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND status IN ('queued', 'running') AND {is_reached}
FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run), is_reached=run_limits.IS_REACHED)


def pause_at_limit(conn: Connection, run_id: str) -> None:
    """Pause the run where it waits or works although it has reached one of its limits."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_AT_LIMIT, (run_id,)).fetchone()
    if run is not None:
        pause_run(conn, run, reason=run_limits.reached(conn, run))
