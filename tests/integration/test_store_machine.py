"""After any order of calls a run is in the state that a simple model of the ledger predicts."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.domain.errors import IllegalTransitionError, LeaseLostError
from services.domain.ledger import ChildEvent, Claim, Outcome, RequestedAction
from services.domain.states import OVER, RunStatus
from services.store import publications, run_control
from services.store.database import Database
from tests.support.runs import LEASE, TenantDatabase, checkpoint_at, failure, result_of
from trainer_core.errors import Category

MAX_ATTEMPTS = 3
HOLDERS = ("claim", "renew", "event", "checkpoint", "result", "stop", "fail", "lose")
ACTIONS = (*HOLDERS, "pause", "resume", "cancel")


@dataclass
class Model:
    """The expected state of the run's row."""

    status: str = "queued"
    fence: int = 0
    holder: Claim | None = None
    own_failures: int = 0
    lost_at: list[int] = field(default_factory=list)
    """Steps at which attempts without progress were lost."""
    has_progress: bool = False
    reached: int = 0
    """The last step that the attempt reported."""
    checkpoint_step: int = 0
    old: list[Claim] = field(default_factory=list)

    def let_go(self, status: str) -> None:
        assert self.holder is not None
        self.old.append(self.holder)
        self.holder = None
        self.status = self._asked_for(status)

    def _asked_for(self, status: str) -> str:
        if self.status == "canceling":
            return "canceled"
        return "paused" if self.status == "pausing" and status == "queued" else status

    def progress(self, step: int) -> None:
        self.checkpoint_step, self.has_progress = step, True
        self.own_failures, self.lost_at = 0, []

    def end_attempt(self, *, is_lost: bool) -> None:
        if not self.has_progress:
            if is_lost:
                self.lost_at.append(self.reached)
            else:
                self.own_failures += 1
        together = max(
            (sum(step in {n, n + 1} for step in self.lost_at) for n in self.lost_at), default=0
        )
        own = self.own_failures + (together if together > 1 else 0)
        self.let_go("failed" if own >= MAX_ATTEMPTS else "queued")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(ACTIONS), max_size=25))
def test_the_ledger_follows_the_model(database: Database, actions: list[str]) -> None:
    tenant_db = TenantDatabase.new(database, max_attempts=MAX_ATTEMPTS)
    run_id = tenant_db.claimable().run_id
    model = Model()
    for step, action in enumerate(actions, start=1):
        act(tenant_db, run_id, model, action, step)
        run = tenant_db.run(run_id)
        assert (run.status, run.fence, run.is_held, run.checkpoint_step) == (
            model.status,
            model.fence,
            model.holder is not None,
            model.checkpoint_step,
        )
        for stale in model.old:
            assert_refused(tenant_db, stale, step)
    check_records(tenant_db, run_id, model)


def act(tenant_db: TenantDatabase, run_id: str, model: Model, action: str, step: int) -> None:
    held = model.holder
    if action == "claim":
        tenant_db.due_now(run_id)
        claim = tenant_db.ledger.claim(run_id, worker_id="w", lease=LEASE)
        assert (claim is not None) == (model.status == "queued")
        if claim is not None:
            model.status, model.fence, model.holder = "running", model.fence + 1, claim
            model.has_progress, model.reached = False, model.checkpoint_step
    elif action in CONTROL:
        control(tenant_db, run_id, model, action)
    elif held is not None:
        act_as_holder(tenant_db, held, model, action, step)


CONTROL = {
    "pause": run_control.pause,
    "resume": run_control.resume,
    "cancel": run_control.cancel,
}


def control(tenant_db: TenantDatabase, run_id: str, model: Model, action: str) -> None:
    too_late = {"succeeded", "failed"} if action == "cancel" else {*OVER, "canceling"}
    try:
        with tenant_db.database.transaction() as conn:
            CONTROL[action](conn, tenant_db.tenant_id, run_id)
    except IllegalTransitionError:
        assert model.status in too_late
        return
    assert model.status not in too_late
    match action, model.status:
        case "cancel", status if status != "canceled":
            model.status = "canceled" if model.holder is None else "canceling"
        case "pause", "queued" | "running":
            model.status = "paused" if model.holder is None else "pausing"
        case "resume", "pausing":
            model.status = "running"
        case "resume", "paused":
            model.status = "queued"


def act_as_holder(
    tenant_db: TenantDatabase, held: Claim, model: Model, action: str, step: int
) -> None:
    ledger, run_id, fence = tenant_db.ledger, held.run_id, held.fence
    if action == "renew":
        requested = {
            "running": RequestedAction.RUN,
            "pausing": RequestedAction.PAUSE,
            "canceling": RequestedAction.CANCEL,
        }
        renewal = ledger.renew(run_id, fence, lease=LEASE)
        assert (renewal.requested, renewal.budget_s) == (requested[model.status], None)
    elif action == "event":
        ledger.event(run_id, fence, [ChildEvent(type="step", step=step, data={})])
        model.reached = step
    elif action == "checkpoint":
        ledger.commit_checkpoint(run_id, fence, checkpoint_at(held, step))
        model.progress(step)
    elif action == "result":
        ledger.commit_result(run_id, fence, result_of(held), step=step)
        ledger.commit_result(run_id, fence, result_of(held), step=step)
        model.let_go("succeeded")
        model.old.pop()  # this call may be repeated
    elif action == "stop":
        ledger.hand_back(run_id, fence, Outcome.STOPPED, None)
        model.let_go("queued")
    elif action == "fail":
        own = failure(code="internal_error", category=Category.PLATFORM)
        ledger.hand_back(run_id, fence, Outcome.FAILED, own)
        model.end_attempt(is_lost=False)
    elif action == "lose":
        tenant_db.let_lease_run_out(run_id)
        dead = tenant_db.sweep(max_attempts=MAX_ATTEMPTS)
        assert dead is not None
        model.end_attempt(is_lost=True)


def assert_refused(tenant_db: TenantDatabase, stale: Claim, step: int) -> None:
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.commit_checkpoint(
            stale.run_id, stale.fence, checkpoint_at(stale, step + 1)
        )
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.commit_result(stale.run_id, stale.fence, result_of(stale), step=step)


def check_records(tenant_db: TenantDatabase, run_id: str, model: Model) -> None:
    events = tenant_db.events(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    types = [event.type for event in events]
    ends = [t for t in types if t in {f"run.{status}" for status in OVER}]
    assert ends == ([f"run.{model.status}"] if RunStatus(model.status) in OVER else [])
    attempts = tenant_db.attempts(run_id)
    assert [a.fence for a in attempts] == list(range(1, model.fence + 1))
    assert sum(a.outcome is None for a in attempts) == (model.holder is not None)
    with tenant_db.database.transaction() as conn:
        published = publications.list_page(conn, tenant_db.tenant_id, 10, run_id=run_id)
    assert len(published) == (model.status == "succeeded")
