"""The ledger in PostgreSQL: every write locks the run's row first and checks the fence.

A run is held while ``lease_until`` is not NULL. The sweep sets it to NULL when the lease has
expired and keeps the fence, so that later writes of the old holder match no row.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.attempt_budgets import MAX_INFRA_FAILURES
from services.domain.errors import LeaseLostError
from services.domain.failures import internal_error, unexplained
from services.domain.fair_share import HALF_LIFE
from services.domain.ledger import (
    CachedShard,
    ChildEvent,
    Claim,
    LedgerDownError,
    Outcome,
    Printed,
    Renewal,
    RequestedAction,
    StoredCheckpoint,
    StoredFiles,
    Worker,
)
from services.domain.states import CHARGED_STAGES, RunStatus, Stage
from services.store import (
    claims,
    commits,
    failing_rows,
    outcomes,
    run_control,
    run_events,
    run_limits,
    run_logs,
    run_previews,
    run_samples,
    shards,
    usage,
    workers,
)
from services.store.database import (
    Connection,
    Database,
    DatabaseBusyError,
    columns_of,
    seconds,
)
from services.store.run_rows import Run
from trainer_core.process.failure import Failure

_STAGES: Final = {
    "loading": Stage.PROVISIONING,
    "training": Stage.TRAINING,
    "evaluating": Stage.TRAINING,
    "sampling": Stage.SAMPLING,
    "checkpointing": Stage.CHECKPOINTING,
    "finalizing": Stage.FINALIZING,
}
"""Stage as the training process names it → stage of the run."""


_LEDGER_CONNECTIONS: Final = 5
"""At once: claim and commits, lease, events, log, heartbeat."""


@contextlib.contextmanager
def open_ledger(
    url: str, *, lease: timedelta, max_attempts: int, max_infra_failures: int, half_life: timedelta
) -> Iterator["PostgresLedger"]:
    """The ledger in the database at ``url``, with connections of its own until the block ends.

    A holder that is cut off in the middle of a write keeps its run's row locked for one lease.
    """
    database = Database(url, max_size=_LEDGER_CONNECTIONS, idle_timeout=lease)
    try:
        yield PostgresLedger(
            database,
            max_attempts=max_attempts,
            max_infra_failures=max_infra_failures,
            half_life=half_life,
        )
    finally:
        database.close()


class PostgresLedger:
    """Implements ``services.domain.ledger.Ledger``; safe to share among threads.

    Every method may raise DatabaseDownError or DatabaseBusyError; both are LedgerDownErrors. The
    protocol defines which calls may be repeated then.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_attempts: int = 5,
        max_infra_failures: int = MAX_INFRA_FAILURES,
        half_life: timedelta = HALF_LIFE,
    ) -> None:
        """
        Args:
            max_attempts: as in ``outcomes.end_failed``.
            max_infra_failures: the same.
            half_life: of the use that tenants' shares are computed from.
        """
        self._database = database
        self._max_attempts = max_attempts
        self._max_infra_failures = max_infra_failures
        self._half_life = half_life

    def register(
        self,
        worker: Worker,
        *,
        draining: bool,
        run_id: str | None,
        drain_reason: Failure | None = None,
    ) -> None:
        """Register the worker, or refresh its heartbeat."""
        with self._database.transaction() as conn:
            workers.register(
                conn, worker, draining=draining, run_id=run_id, drain_reason=drain_reason
            )

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Claim a queued run whose shards are all built; None where it cannot be claimed.

        An error that is not an outage postpones the run, so that workers are offered others. It is
        raised afterwards.
        """
        with self._postponing(run_id), self._database.transaction() as conn:
            return claims.claim(conn, run_id, worker_id=worker_id, lease=lease)

    def claim_offered(
        self, run_id: str, *, worker_id: str, lease: timedelta, claim_id: str
    ) -> Claim | None:
        """As ``claim``, for a remote worker; see ``claims.claim_offered``."""
        with self._postponing(run_id), self._database.transaction() as conn:
            return claims.claim_offered(
                conn, run_id, worker_id=worker_id, lease=lease, claim_id=claim_id
            )

    @contextlib.contextmanager
    def _postponing(self, run_id: str) -> Iterator[None]:
        try:
            yield
        except DatabaseBusyError:
            with self._database.transaction() as conn:
                failing_rows.postpone_busy(conn, run_id)
            raise
        except LedgerDownError:
            raise
        except Exception:  # raised again: the run must not keep its place in line
            with self._database.transaction() as conn:
                failing_rows.count_failure(conn, run_id, internal_error())
            raise

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> Renewal:
        """Extend the lease; raises LeaseLostError where the run is no longer held.

        A run that has reached one of its limits is paused from then on.
        """
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            usage.charge(conn, run, half_life=self._half_life, goes_on=True)
            conn.execute(_RENEW, {"run_id": run_id, "lease_s": seconds(lease)})
            reason = run_limits.reached(conn, run)
            if reason is not None and run.status == RunStatus.RUNNING:
                run = run_control.pause_run(conn, run, reason=reason)
            return Renewal(requested=_requested(run), budget_s=run_limits.budget_s(conn, run))

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store the child's events in order; updates the run's stage and step.

        Those of pictures make rows of ``run_samples``, and those of previews one of
        ``run_previews``.
        """
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            events = _not_stored(conn, run_id, fence, events)
            if not events:
                return  # nothing new: the reply to the first call was lost
            events = run_samples.record(conn, run, events)
            entered = _stage_entered(events)
            events = run_previews.record(conn, run, events, entered=entered)
            if not events:
                return  # a preview that replaced the one before
            step = max(event.step for event in events)
            if entered is not None:
                self._meter(conn, run, entered)
            shown = entered if entered is not None and run.status in _SHOWS_STAGES else run.stage
            best = _lowest_loss(events)
            facts = {
                "run_id": run_id,
                "step": step,
                "stage": shown,
                "loss": best and best.loss,
                "loss_step": best and best.step,
            }
            conn.execute(_SET_STEP_AND_STAGE, facts)
            commits.note_step(conn, run_id, fence, step)
            run_events.append(conn, run_id, events)

    def log(self, run_id: str, fence: int, printed: Printed) -> None:
        """Store a piece of the attempt's output, unless one with this ``start_byte`` is stored."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            run_logs.append(conn, run, printed)

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """Record a stored checkpoint, from which the run resumes from now on."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            commits.checkpoint(conn, run, checkpoint)

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """End the run with this result, and create its publication in the same transaction."""
        with self._database.transaction() as conn:
            run = _lock(conn, run_id)
            if run is not None and commits.is_result_of(run, fence, result):
                return  # the reply to the first call was lost
            if run is None or run.fence != fence or not run.is_held:
                raise LeaseLostError(run_id=run_id, fence=fence)
            usage.close_meter(conn, run, half_life=self._half_life)
            commits.result(conn, run, result, step=step)

    def rebuild_shard(self, run_id: str, fence: int, shard: CachedShard) -> bool:
        """Have a damaged shard built again; False where it no longer has this manifest."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            return shards.rebuild(conn, run.tenant_id, shard)

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """End the attempt without a result. The run is queued again, paused, canceled or failed."""
        with self._database.transaction() as conn:
            run = _lock(conn, run_id)
            if run is None or run.fence != fence or not run.is_held:
                if outcomes.ended_with(conn, run_id, fence, outcome):
                    return  # the reply to the first call was lost
                raise LeaseLostError(run_id=run_id, fence=fence)
            usage.close_meter(conn, run, half_life=self._half_life)
            if outcome is Outcome.STOPPED:
                outcomes.end_stopped(conn, run)
            else:
                outcomes.end_failed(
                    conn,
                    run,
                    "failed",
                    failure or unexplained(),
                    max_attempts=self._max_attempts,
                    max_infra_failures=self._max_infra_failures,
                )

    def _meter(self, conn: Connection, run: Run, stage: Stage) -> None:
        """Start the attempt's meter in a charged stage, stop it in any other."""
        if stage in CHARGED_STAGES:
            usage.start_meter(conn, run)
        else:
            usage.charge(conn, run, half_life=self._half_life, goes_on=False)


_RENEW: Final = """
UPDATE runs SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE run_id = %(run_id)s
"""


def _requested(run: Run) -> RequestedAction:
    match RunStatus(run.status):
        case RunStatus.CANCELING:
            return RequestedAction.CANCEL_NOW if run.cancel_now else RequestedAction.CANCEL
        case RunStatus.PAUSING:
            return RequestedAction.PAUSE
    return RequestedAction.STOP if run.must_stop else RequestedAction.RUN


_LOCK_HELD: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %(run_id)s AND fence = %(fence)s AND lease_until IS NOT NULL FOR UPDATE
""").format(columns=columns_of(Run))


def _lock_held(conn: Connection, run_id: str, fence: int) -> Run:
    """Lock and return the run; raises LeaseLostError where it is not held with this fence."""
    facts = {"run_id": run_id, "fence": fence}
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_HELD, facts).fetchone()
    if run is None:
        raise LeaseLostError(run_id=run_id, fence=fence)
    return run


_LOCK: Final = SQL("SELECT {columns} FROM runs WHERE run_id = %s FOR UPDATE").format(
    columns=columns_of(Run)
)


def _lock(conn: Connection, run_id: str) -> Run | None:
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_LOCK, (run_id,)).fetchone()


_MARK_STORED: Final = """
WITH before AS (
    SELECT last_event FROM attempts WHERE run_id = %(run_id)s AND fence = %(fence)s
)
UPDATE attempts SET last_event = greatest(attempts.last_event, %(newest)s) FROM before
WHERE run_id = %(run_id)s AND fence = %(fence)s
RETURNING before.last_event
"""


def _not_stored(
    conn: Connection, run_id: str, fence: int, events: Sequence[ChildEvent]
) -> list[ChildEvent]:
    """The events that no earlier call stored; records them as stored."""
    newest = max((event.number or 0 for event in events), default=0)
    facts = {"run_id": run_id, "fence": fence, "newest": newest}
    row = conn.execute(_MARK_STORED, facts).fetchone()
    assert row is not None, "a held run has an attempt"
    return [
        event
        for event in events
        if (
            not run_events.is_among_newest(conn, run_id, fence, event)
            if event.number is None
            else event.number > row[0]
        )
    ]


_SET_STEP_AND_STAGE: Final = """
UPDATE runs SET step = greatest(step, %(step)s), stage = %(stage)s, updated_at = clock_timestamp(),
    best_loss = least(best_loss, %(loss)s),
    best_loss_step = CASE WHEN %(loss)s::double precision < coalesce(best_loss, 'infinity')
        THEN %(loss_step)s ELSE best_loss_step END,
    version = version + CASE WHEN stage IS DISTINCT FROM %(stage)s::text THEN 1 ELSE 0 END
WHERE run_id = %(run_id)s
"""


_INFINITE: Final = 1e100
"""A larger loss counts as none, as in a run's metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _StepLoss:
    loss: float
    step: int


def _lowest_loss(events: Sequence[ChildEvent]) -> _StepLoss | None:
    """The lowest loss of these steps, the first of equal ones; None where none has a number."""
    losses = [
        _StepLoss(loss=float(loss), step=event.step)
        for event in events
        if event.type == "step"
        and isinstance(loss := event.data.get("loss"), int | float)
        and abs(loss) < _INFINITE
    ]
    return min(losses, key=lambda each: each.loss, default=None)


_SHOWS_STAGES: Final = frozenset({RunStatus.RUNNING, RunStatus.PAUSING})
"""A run that is being canceled shows that it stops, whatever its training process does."""


def _stage_entered(events: Sequence[ChildEvent]) -> Stage | None:
    """The stage that the training process has entered last; None where no event names one."""
    entered: Stage | None = None
    for event in events:
        if event.type == "stage":
            entered = _STAGES.get(str(event.data.get("stage")), entered)
    return entered
