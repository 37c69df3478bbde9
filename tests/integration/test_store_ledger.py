"""The ledger on a real PostgreSQL: writes under a stale fence, and how attempts end."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.domain.errors import LeaseLostError
from services.domain.failures import ENTRY_MISSING
from services.domain.ledger import (
    ChildEvent,
    Outcome,
    RequestedAction,
    StoredCheckpoint,
)
from services.store import leases, publications, runs
from services.store.ledger import PostgresLedger
from tests.support.runs import (
    LEASE,
    TenantDatabase,
    checkpoint_at,
    failure,
    files_at,
    plan,
    result_of,
)
from trainer_core.process.failure import Failure


def sweep(tenant_db: TenantDatabase) -> leases.DeadAttempt | None:
    return tenant_db.sweep(max_attempts=3)


Write = Callable[[PostgresLedger, str, int], object]
FILES = files_at("somewhere/")
STEP = ChildEvent(type="step", step=5, data={})
CHECKPOINT = StoredCheckpoint(step=5, files=FILES)
WRITES: dict[str, Write] = {
    "renew": lambda ledger, run_id, fence: ledger.renew(run_id, fence, lease=LEASE),
    "event": lambda ledger, run_id, fence: ledger.event(run_id, fence, [STEP]),
    "checkpoint": lambda ledger, run_id, fence: ledger.commit_checkpoint(run_id, fence, CHECKPOINT),
    "result": lambda ledger, run_id, fence: ledger.commit_result(run_id, fence, FILES, step=5),
    "stop": lambda ledger, run_id, fence: ledger.hand_back(run_id, fence, Outcome.STOPPED, None),
    "fail": lambda ledger, run_id, fence: ledger.hand_back(
        run_id, fence, Outcome.FAILED, failure()
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("state", ["swept", "claimed again", "over"])
def test_a_stale_fence_changes_nothing(tenant_db: TenantDatabase, write: Write, state: str) -> None:
    claim = tenant_db.held()
    if state == "over":
        tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    else:
        tenant_db.let_lease_run_out(claim.run_id)
        assert sweep(tenant_db) is not None
    if state == "claimed again":
        tenant_db.due_now(claim.run_id)
        assert tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE) is not None
    before = (
        tenant_db.run(claim.run_id),
        tenant_db.events(claim.run_id),
        tenant_db.attempts(claim.run_id),
    )

    with pytest.raises(LeaseLostError):
        write(tenant_db.ledger, claim.run_id, claim.fence)

    after = (
        tenant_db.run(claim.run_id),
        tenant_db.events(claim.run_id),
        tenant_db.attempts(claim.run_id),
    )
    assert after == before
    with tenant_db.database.transaction() as conn:
        assert runs.checkpoints(conn, tenant_db.tenant_id, claim.run_id) == []


def test_events_are_numbered_without_gaps_and_update_the_run(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.event(
        claim.run_id,
        claim.fence,
        [
            ChildEvent(type="stage", step=0, data={"stage": "training"}),
            ChildEvent(type="step", step=1, data={"loss": 0.5}),
            ChildEvent(type="warning", step=2, data={"message": "a\0b", "loss": float("nan")}),
        ],
    )
    run = tenant_db.run(claim.run_id)
    events = tenant_db.events(claim.run_id)
    assert (run.stage, run.step, run.event_seq) == ("training", 2, len(events))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data == {"message": "ab", "loss": None}
    assert tenant_db.attempts(claim.run_id)[0].last_step == 2


def test_a_batch_that_is_sent_again_is_stored_once(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    batch = [ChildEvent(type="step", step=n, data={}, number=n) for n in (1, 2, 3)]
    newer = ChildEvent(type="step", step=4, data={}, number=4)

    tenant_db.ledger.event(claim.run_id, claim.fence, batch)
    tenant_db.ledger.event(claim.run_id, claim.fence, [*batch[1:], newer])

    steps = [event.step for event in tenant_db.events(claim.run_id) if event.type == "step"]
    assert steps == [1, 2, 3, 4]


def test_events_of_concurrent_writers_leave_no_gap(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()

    def report(step: int) -> None:
        tenant_db.ledger.event(
            claim.run_id, claim.fence, [ChildEvent(type="step", step=step, data={})] * 2
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(1, 41)))
    events = tenant_db.events(claim.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_checkpoint_is_where_the_next_attempt_starts(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for step in (10, 20, 30):
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)

    with tenant_db.database.transaction() as conn:
        stored = runs.checkpoints(conn, tenant_db.tenant_id, claim.run_id)
    assert [c.step for c in stored] == [30, 20]  # the plan keeps two
    again = tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
    assert again is not None
    assert again.checkpoint == checkpoint_at(claim, 30)
    assert [a.from_step for a in tenant_db.attempts(claim.run_id)] == [0, 30]


def test_a_checkpoint_committed_twice_counts_once(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for _ in range(2):
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 10))
    assert tenant_db.event_types(claim.run_id).count("run.checkpoint") == 1


def test_a_result_committed_twice_counts_once(tenant_db: TenantDatabase) -> None:
    request = {"secrets": {"hub": "my-hub"}}
    claim = tenant_db.held(plan=plan(hub_model_id="ada/dream"), request=request)
    for _ in range(2):  # the reply to the first was lost
        tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    run = tenant_db.run(claim.run_id)
    assert (run.status, run.result_step, run.is_held) == ("succeeded", 100, False)
    assert run.result_key_prefix == result_of(claim).key_prefix
    assert tenant_db.event_types(claim.run_id).count("run.succeeded") == 1
    assert tenant_db.attempts(claim.run_id)[0].outcome == "finished"
    with tenant_db.database.transaction() as conn:
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10, run_id=claim.run_id)
    assert publication.target == {
        "kind": "hub",
        "repo_id": "ada/dream",
        "private": True,
        "secret": "my-hub",
    }
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim, "cc"), step=100)


def test_without_a_hub_repository_the_result_is_published_to_a_folder(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with tenant_db.database.transaction() as conn:
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10)
    assert publication.target == {"kind": "folder"}


@pytest.mark.parametrize(("outcome", "reason"), [("stopped", None), ("failed", failure())])
def test_a_run_handed_back_twice_is_handed_back_once(
    tenant_db: TenantDatabase, outcome: str, reason: Failure | None
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome(outcome), reason)
    run, attempts = tenant_db.run(claim.run_id), tenant_db.attempts(claim.run_id)
    events = tenant_db.event_types(claim.run_id)

    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome(outcome), reason)  # no reply

    assert (tenant_db.run(claim.run_id), tenant_db.attempts(claim.run_id)) == (run, attempts)
    assert tenant_db.event_types(claim.run_id) == events


def test_a_stopped_attempt_is_not_counted_and_causes_no_pause(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for _ in range(5):
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
        run = tenant_db.run(claim.run_id)
        assert (run.status, run.stage, run.ring_after) == ("queued", "capacity", None)
        assert run.attempts_without_progress == 0
        again = tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
        assert again is not None
        claim = again


def test_a_run_that_lacks_a_cache_entry_is_indexed_again_a_few_times(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    lacking = failure(code=ENTRY_MISSING)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, lacking)
    run = tenant_db.run(claim.run_id)
    assert (run.status, run.stage) == ("queued", "admission")
    assert run.ring_after is not None
    assert run.infra_failures + run.attempts_without_progress == 1  # so that it ends


def test_a_users_error_is_not_retried(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    wrong = failure(retryable=False, code="non_finite_loss")
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, wrong)
    run = tenant_db.run(claim.run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "non_finite_loss"
    assert run.finished_at is not None


def test_the_sweep_closes_only_attempts_with_an_expired_lease(tenant_db: TenantDatabase) -> None:
    dead, living = tenant_db.held(), tenant_db.held()
    tenant_db.let_lease_run_out(dead.run_id)
    swept = sweep(tenant_db)
    assert swept is not None
    assert (swept.run_id, swept.fence, swept.status) == (dead.run_id, dead.fence, "queued")
    assert sweep(tenant_db) is None
    assert tenant_db.run(dead.run_id).fence == dead.fence  # raised by the next claim, not here
    assert tenant_db.attempts(dead.run_id)[0].outcome == "lost"
    assert tenant_db.run(living.run_id).is_held


def test_concurrent_sweeps_close_an_attempt_once(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    tenant_db.let_lease_run_out(claim.run_id)
    with ThreadPoolExecutor(8) as pool:
        swept = [s for s in pool.map(lambda _: sweep(tenant_db), range(8)) if s is not None]
    assert len(swept) == 1
    assert tenant_db.run(claim.run_id).infra_failures == 1


@pytest.mark.parametrize(
    ("status", "requested", "afterwards"),
    [
        ("canceling", RequestedAction.CANCEL, "canceled"),
        ("pausing", RequestedAction.PAUSE, "paused"),
    ],
)
@pytest.mark.parametrize("end", ["stopped", "failed", "lost"])
def test_a_renewal_returns_the_requested_action_and_the_run_ends_accordingly(
    tenant_db: TenantDatabase, status: str, requested: RequestedAction, afterwards: str, end: str
) -> None:
    claim = tenant_db.held()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = %s", (status,))
    renewal = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    assert renewal.requested is requested
    if end == "lost":
        tenant_db.let_lease_run_out(claim.run_id)
        assert sweep(tenant_db) is not None
    else:
        reason = failure() if end == "failed" else None
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome(end), reason)
    assert tenant_db.run(claim.run_id).status == afterwards


def test_a_run_that_finishes_while_pausing_succeeds(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = 'pausing'")
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    assert tenant_db.run(claim.run_id).status == "succeeded"


def test_renewing_extends_the_lease(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held(lease=timedelta(seconds=1))
    tenant_db.ledger.renew(claim.run_id, claim.fence, lease=timedelta(hours=1))
    with tenant_db.database.transaction() as conn:
        row = conn.execute("SELECT lease_until > now() + interval '59 min' FROM runs").fetchone()
    assert row == (True,)


def test_a_run_that_is_handed_back_waits_since_then(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET queued_at = queued_at - interval '1 day'")
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    with tenant_db.database.transaction() as conn:
        row = conn.execute(
            "SELECT clock_timestamp() - queued_at < interval '1 minute' FROM runs"
        ).fetchone()
    assert row == (True,)
