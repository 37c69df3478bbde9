"""Limits of a run on a real PostgreSQL: budgets, pauses at each limit, changes by the tenant."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.domain.errors import (
    InvalidRequestError,
    LimitReachedError,
    NotFoundError,
    RunOverError,
)
from services.domain.ledger import ChildEvent, Claim, Outcome, RequestedAction
from services.domain.quotas import Quotas
from services.queue.rings import Rings
from services.store import gpu_classes, offers, run_changes, run_control
from services.store.database import Database
from services.store.run_changes import RunChanges
from services.store.run_rows import Run
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase, checkpoint_at, result_of

HOUR_MICROS = 3_600_000
"""A price of 1,000 micros a second."""
SOON = timedelta(seconds=10)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2090, 1, 1, tzinfo=UTC)


@pytest.fixture
def tenant_db(database: Database) -> TenantDatabase:
    with database.transaction() as conn:
        gpu_classes.set_price(conn, "cpu", price_micros_per_hour=HOUR_MICROS, currency="EUR")
    return TenantDatabase.new(database)


@pytest.fixture
def dispatch(
    tenant_db: TenantDatabase, shared_redis_server: RedisServer
) -> Iterator[Callable[[], None]]:
    with Rings(shared_redis_server.url) as rings:
        yield Dispatcher(
            database=tenant_db.database,
            rings=rings,
            health=Health(60),
            offer=SOON,
            heartbeat=SOON,
            max_attempts=3,
        ).pause_at_limits


def train(tenant_db: TenantDatabase, claim: Claim, charged_s: float) -> None:
    """Let the attempt train for so long."""
    event = ChildEvent(type="stage", step=0, data={"stage": "training"})
    tenant_db.ledger.event(claim.run_id, claim.fence, [event])
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE attempts SET charged_until = charged_until - make_interval(secs => %s)"
            " WHERE run_id = %s AND fence = %s",
            (charged_s, claim.run_id, claim.fence),
        )


def renew(tenant_db: TenantDatabase, claim: Claim) -> tuple[RequestedAction, float | None]:
    renewal = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    return renewal.requested, renewal.budget_s


def change(tenant_db: TenantDatabase, run_id: str, **values: Any) -> Run:
    with tenant_db.database.transaction() as conn:
        changes = RunChanges(values=values)
        return run_changes.change(conn, tenant_db.tenant_id, run_id, changes)


def resume(tenant_db: TenantDatabase, run_id: str) -> Run:
    with tenant_db.database.transaction() as conn:
        return run_control.resume(conn, tenant_db.tenant_id, run_id)


def set_deadline(tenant_db: TenantDatabase, run_id: str, deadline: datetime) -> None:
    """As it is when time has passed."""
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET deadline = %s WHERE run_id = %s", (deadline, run_id))


def code_of(run: Run) -> str | None:
    return None if run.status_reason is None else str(run.status_reason["code"])


@pytest.mark.parametrize(
    ("limit", "more", "code"),
    [
        ({"max_cost_micros": 20_000}, {"max_cost_micros": 50_000}, "cost_limit_reached"),
        ({"max_gpu_s": 20.0}, {"max_gpu_s": 50.0}, "gpu_hours_limit_reached"),
    ],
)
def test_a_run_is_paused_at_its_limit_and_goes_on_when_it_is_raised(
    tenant_db: TenantDatabase, limit: dict[str, Any], more: dict[str, Any], code: str
) -> None:
    claim = tenant_db.held(**limit)
    assert claim.budget_s == pytest.approx(20)
    train(tenant_db, claim, 12)
    below = renew(tenant_db, claim)
    train(tenant_db, claim, 9)
    above = renew(tenant_db, claim)
    asked = tenant_db.run(claim.run_id)
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 7))
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    resting = tenant_db.run(claim.run_id)
    for _ in range(2):
        with pytest.raises(LimitReachedError, match="Raise it and resume") as refused:
            resume(tenant_db, claim.run_id)
    raised = change(tenant_db, claim.run_id, **more)
    resumed = resume(tenant_db, claim.run_id)
    again = tenant_db.ledger.claim(claim.run_id, worker_id=tenant_db.worker(), lease=LEASE)

    assert below == (RequestedAction.RUN, pytest.approx(8, abs=1))
    assert above == (RequestedAction.PAUSE, 0)
    assert (asked.status, code_of(asked)) == ("pausing", code)
    assert (resting.status, code_of(resting)) == ("paused", code)
    assert [each.code for each in refused.value.problems] == [code]
    assert raised.status == "paused"  # until it is resumed
    assert (resumed.status, resumed.stage, code_of(resumed)) == ("queued", "capacity", None)
    assert again is not None
    assert again.budget_s == pytest.approx(29, abs=1)


def test_an_attempt_that_ends_at_the_limit_is_not_queued_again(tenant_db: TenantDatabase) -> None:
    """The holder stopped by its own count, while the ledger did not answer."""
    claim = tenant_db.held(max_gpu_s=20.0)
    train(tenant_db, claim, 21)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    run = tenant_db.run(claim.run_id)

    assert (run.status, code_of(run)) == ("paused", "gpu_hours_limit_reached")


def test_a_run_that_ends_at_its_limit_has_succeeded(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held(max_gpu_s=20.0)
    train(tenant_db, claim, 21)
    renew(tenant_db, claim)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    assert tenant_db.run(claim.run_id).status == "succeeded"


def test_a_price_of_nothing_sets_no_budget(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held(max_cost_micros=1, gpu_class="free")
    train(tenant_db, claim, 1000)
    assert renew(tenant_db, claim) == (RequestedAction.RUN, None)


def test_the_dispatcher_pauses_what_is_late(
    tenant_db: TenantDatabase, dispatch: Callable[[], None]
) -> None:
    held = tenant_db.held()
    others = [tenant_db.queued(), tenant_db.claimable(), tenant_db.claimable()]
    *late, in_time = [run.run_id for run in others]
    for run_id in (held.run_id, *late):
        set_deadline(tenant_db, run_id, LONG_AGO)
    set_deadline(tenant_db, in_time, FAR_AHEAD)
    dispatch()
    statuses = [tenant_db.run(each).status for each in (held.run_id, *late, in_time)]
    reasons = [code_of(tenant_db.run(each)) for each in (held.run_id, *late)]
    requested, _ = renew(tenant_db, held)
    tenant_db.ledger.hand_back(held.run_id, held.fence, Outcome.STOPPED, None)
    events = {each: len(tenant_db.events(each)) for each in (held.run_id, *late)}
    dispatch()

    assert statuses == ["pausing", "paused", "paused", "queued"]
    assert reasons == ["deadline_reached"] * 3
    assert requested is RequestedAction.PAUSE
    assert tenant_db.run(held.run_id).status == "paused"
    assert {each: len(tenant_db.events(each)) for each in events} == events
    with pytest.raises(LimitReachedError, match="deadline"):
        resume(tenant_db, held.run_id)
    change(tenant_db, held.run_id, deadline=None)
    assert resume(tenant_db, held.run_id).status == "queued"


def test_the_dispatcher_stops_a_holder_that_knows_no_budget(
    tenant_db: TenantDatabase, dispatch: Callable[[], None]
) -> None:
    """A trainer of the version before renews, and is charged, without a look at the limits."""
    claim = tenant_db.held()
    train(tenant_db, claim, 21)
    renew(tenant_db, claim)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET max_gpu_s = 20")
    dispatch()
    assert tenant_db.run(claim.run_id).status == "pausing"


def test_a_run_at_its_limit_is_neither_offered_nor_claimed(tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.claimable().run_id
    set_deadline(tenant_db, run_id, LONG_AGO)  # and no dispatcher has seen it
    tenant_db.worker(node="here")
    with tenant_db.database.transaction() as conn:
        offered = offers.take_offers(
            conn, offer=SOON, silence=SOON, half_life=SOON, aging=SOON, quotas=Quotas()
        )
    assert offered == []
    assert tenant_db.ledger.claim(run_id, worker_id="w", lease=LEASE) is None


def test_a_new_limit_below_what_is_used_pauses_the_run(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    train(tenant_db, claim, 30)
    renew(tenant_db, claim)
    changed = change(tenant_db, claim.run_id, max_gpu_s=20.0)
    assert (changed.status, code_of(changed)) == ("pausing", "gpu_hours_limit_reached")
    assert tenant_db.event_types(claim.run_id)[-2:] == ["run.changed", "run.pausing"]
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    assert tenant_db.run(claim.run_id).status == "paused"


def test_a_limit_can_be_set_while_it_trains(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    assert claim.budget_s is None
    train(tenant_db, claim, 10)
    assert renew(tenant_db, claim) == (RequestedAction.RUN, None)
    change(tenant_db, claim.run_id, max_cost_micros=30_000)
    assert renew(tenant_db, claim) == (RequestedAction.RUN, pytest.approx(20, abs=1))


def test_changes_are_written_once_and_told(tenant_db: TenantDatabase) -> None:
    run = tenant_db.queued(metadata={"a": "1", "b": "2"})
    with tenant_db.database.transaction() as conn:
        first, again = (
            run_changes.change(
                conn,
                tenant_db.tenant_id,
                run.run_id,
                RunChanges(values={"priority": 1}, metadata={"a": None, "c": "3"}),
            )
            for _ in range(2)
        )
    assert (first.priority, first.metadata) == (1, {"b": "2", "c": "3"})
    assert (first.version, again) == (run.version + 1, first)
    event = tenant_db.events(run.run_id)[-1]
    assert (event.type, event.data) == ("run.changed", {"fields": ["priority", "metadata"]})


def test_of_a_run_that_is_over_only_metadata_can_be_changed(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with pytest.raises(RunOverError, match="succeeded"):
        change(tenant_db, claim.run_id, priority=1)
    with tenant_db.database.transaction() as conn:
        labelled = RunChanges(metadata={"best": "yes"})
        changed = run_changes.change(conn, tenant_db.tenant_id, claim.run_id, labelled)
    assert (changed.status, changed.metadata) == ("succeeded", {"best": "yes"})


def test_changes_keep_within_the_tenant_and_the_most_metadata(tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.queued(metadata={str(n): "" for n in range(10)}).run_id
    run = tenant_db.run(run_id)
    with pytest.raises(NotFoundError):
        change(tenant_db.neighbour(), run_id, priority=1)
    more = RunChanges(metadata={f"more {n}": "" for n in range(7)})
    with pytest.raises(InvalidRequestError, match="16"), tenant_db.database.transaction() as conn:
        run_changes.change(conn, tenant_db.tenant_id, run_id, more)
    assert tenant_db.run(run_id) == run
