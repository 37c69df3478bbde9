"""Changes of a run's status: checks the transition, updates the row, writes the event, notifies.

The caller must have locked the run's row in this transaction.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.ledger import ChildEvent
from services.domain.states import OVER, RunStatus, Stage, check_transition
from services.store import checkpoint_retention, run_events, webhook_events, workers
from services.store.database import WORK, Connection, columns_of, notify, seconds
from services.store.run_rows import Run
from trainer_core.process.failure import Failure, failure_as_json

_SWEEP_DELAY: Final = timedelta(minutes=20)
"""A disconnected holder may upload until it gives up; the sweep must not start before."""

_CHANGE_STATUS: Final = SQL("""
UPDATE runs SET status = %(status)s, stage = %(stage)s, status_reason = %(reason)s,
    version = version + 1, updated_at = clock_timestamp(),
    offered_until = NULL, offered_to = NULL, dispatch_failures = 0,
    ring_after = clock_timestamp() + make_interval(secs => %(ring_after_s)s),
    queued_at = CASE WHEN %(status)s = 'queued' THEN clock_timestamp() ELSE queued_at END,
    finished_at = CASE WHEN %(is_over)s THEN clock_timestamp() ELSE finished_at END,
    sweep_after = CASE WHEN %(is_over)s AND fence > 0
        THEN clock_timestamp() + make_interval(secs => %(sweep_after_s)s) ELSE sweep_after END
WHERE run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Run))


def change_status(
    conn: Connection,
    run: Run,
    status: RunStatus,
    *,
    stage: Stage | None = None,
    reason: Failure | None = None,
    ring_after: timedelta | None = None,
    event: str | None = None,
) -> Run:
    """Change the run's status and write the event; returns the changed row.

    Args:
        reason: shown to the tenant.
        ring_after: pause until the dispatcher looks at the run or may offer it; None: no pause.
        event: its type, where that is not named after the status.

    Raises IllegalTransitionError for a transition that is not in the table.
    """
    check_transition(RunStatus(run.status), status)
    body = None if reason is None else failure_as_json(reason)
    facts = {
        "run_id": run.run_id,
        "status": status,
        "stage": stage,
        "reason": None if body is None else Jsonb(body),
        "ring_after_s": None if ring_after is None else seconds(ring_after),
        "is_over": status in OVER,
        "sweep_after_s": seconds(_SWEEP_DELAY),
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        changed = cursor.execute(_CHANGE_STATUS, facts).fetchone()
    assert changed is not None
    start = changed.start_adapter
    if status in OVER and start is not None and start["step"] is not None:
        checkpoint_retention.retire_unneeded(conn, changed.tenant_id, start["source"])
    webhook_events.announce_status(conn, changed)
    data = {"stage": stage, "reason": body}
    if event is not None:
        return announce(conn, changed, event, {"status": status, **data})
    return announce(conn, changed, f"run.{status}", data)


_CHANGE_STAGE: Final = SQL("""
UPDATE runs SET stage = %(stage)s, status_reason = %(reason)s, version = version + 1,
    updated_at = clock_timestamp(), offered_until = NULL, offered_to = NULL,
    dispatch_failures = 0, ring_after = clock_timestamp() + make_interval(secs => %(ring_after_s)s)
WHERE run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Run))


def change_stage(
    conn: Connection,
    run: Run,
    stage: Stage,
    *,
    reason: Failure | None = None,
    ring_after: timedelta | None = None,
) -> Run:
    """Change the stage within the status and write the event of that status.

    ``reason`` and ``ring_after`` are those of ``change_status``.
    """
    body = None if reason is None else failure_as_json(reason)
    facts = {
        "run_id": run.run_id,
        "stage": stage,
        "reason": None if body is None else Jsonb(body),
        "ring_after_s": None if ring_after is None else seconds(ring_after),
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        changed = cursor.execute(_CHANGE_STAGE, facts).fetchone()
    assert changed is not None
    return announce(conn, changed, f"run.{changed.status}", {"stage": stage, "reason": body})


def announce(conn: Connection, run: Run, type_: str, data: dict[str, Any]) -> Run:
    """Write an event of the service itself and notify the dispatchers."""
    run_events.append(conn, run.run_id, [ChildEvent(type=type_, step=run.step, data=data)])
    notify(conn, WORK)
    return replace(run, event_seq=run.event_seq + 1)


_RELEASE: Final = """
UPDATE runs SET lease_until = NULL, worker_id = NULL,
    sweep_after = clock_timestamp() + make_interval(secs => %(sweep_after_s)s)
WHERE run_id = %(run_id)s
"""
# Lost is what came after the newest checkpoint, or after the start of an attempt that stored none.
_END_ATTEMPT: Final = """
UPDATE attempts SET outcome = %(outcome)s, reason = %(reason)s, ended_at = clock_timestamp(),
    charged_until = NULL,
    lost_steps = CASE WHEN %(is_unfinished)s
        THEN greatest(0, last_step - greatest(from_step, %(checkpoint_step)s)) END,
    lost_s = CASE WHEN %(is_unfinished)s
        THEN extract(epoch FROM clock_timestamp() - greatest(started_at, (
            SELECT max(created_at) FROM checkpoints
            WHERE checkpoints.run_id = attempts.run_id
                AND checkpoints.tenant_id = attempts.tenant_id
                AND checkpoints.fence = attempts.fence))) END
WHERE run_id = %(run_id)s AND fence = %(fence)s AND outcome IS NULL
"""


def release(conn: Connection, run: Run, outcome: str, failure: Failure | None) -> Run:
    """End the current attempt. The fence is kept, so that later writes of its holder are refused.

    Time since the last charge is not charged; call ``usage.close_meter`` before, to charge it.

    Args:
        outcome: ``finished``, ``stopped``, ``failed`` or ``lost``.
    """
    facts = {
        "run_id": run.run_id,
        "fence": run.fence,
        "outcome": outcome,
        "is_unfinished": outcome != "finished",
        "checkpoint_step": run.checkpoint_step,
        "reason": None if failure is None else Jsonb(failure_as_json(failure)),
        "sweep_after_s": seconds(_SWEEP_DELAY),
    }
    conn.execute(_RELEASE, facts)
    conn.execute(_END_ATTEMPT, facts)
    workers.release(conn, run.worker_id, run.run_id)
    return replace(run, lease_until=None, worker_id=None)
