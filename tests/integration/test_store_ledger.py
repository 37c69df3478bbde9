"""The ledger on a real PostgreSQL: who may claim, what a stale fence may not, how attempts end."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, Outcome, RequestedAction, StoredCheckpoint
from services.store import leases, publications, runs
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.runs import (
    LEASE,
    Ground,
    checkpoint_at,
    failure,
    files_at,
    plan,
    result_of,
)
from trainer_core.process.failure import Failure


@pytest.fixture
def ground(database: Database) -> Ground:
    return Ground.new(database)


def sweep(ground: Ground) -> leases.DeadAttempt | None:
    return ground.sweep(max_attempts=3)


def test_of_twenty_claims_one_wins(ground: Ground) -> None:
    run = ground.claimable()
    start = threading.Barrier(20)

    def claim(_: int) -> object:
        start.wait()
        return ground.ledger.claim(run.run_id, worker_id=new_id("wrk"), lease=LEASE)

    with ThreadPoolExecutor(20) as pool:
        claims = [claim for claim in pool.map(claim, range(20)) if claim is not None]
    assert len(claims) == 1
    assert ground.run(run.run_id).fence == 1
    assert [a.fence for a in ground.attempts(run.run_id)] == [1]
    assert ground.event_types(run.run_id).count("run.started") == 1


def test_a_claim_brings_everything_needed(ground: Ground) -> None:
    claim = ground.held()
    run = ground.run(claim.run_id)
    assert (run.status, run.stage, run.fence) == ("running", "provisioning", 1)
    assert claim.tenant_id == ground.tenant_id
    assert claim.data_index == {"version": 1}
    assert [shard.manifest_sha256 for shard in claim.shards] == ["e" * 64]
    assert claim.checkpoint is None
    assert run.started_at is not None


def test_a_run_that_is_not_ready_is_not_claimed(ground: Ground) -> None:
    waiting = ground.queued()
    caching = ground.caching()
    for run in (waiting, caching):
        assert ground.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None
    assert ground.ledger.claim(new_id("run"), worker_id="w", lease=LEASE) is None


def test_a_shard_that_is_missing_again_forbids_the_claim(ground: Ground) -> None:
    run = ground.claimable()
    with ground.database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET status = 'pending'")
    assert ground.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None


def test_a_claim_never_steals_even_an_expired_lease(ground: Ground) -> None:
    claim = ground.held()
    ground.let_lease_run_out(claim.run_id)
    assert ground.ledger.claim(claim.run_id, worker_id="thief", lease=LEASE) is None
    assert ground.ledger.renew(claim.run_id, claim.fence, lease=LEASE) is RequestedAction.RUN


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
def test_a_stale_fence_changes_nothing(ground: Ground, write: Write, state: str) -> None:
    claim = ground.held()
    if state == "over":
        ground.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    else:
        ground.let_lease_run_out(claim.run_id)
        assert sweep(ground) is not None
    if state == "claimed again":
        ground.due_now(claim.run_id)
        assert ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE) is not None
    before = ground.run(claim.run_id), ground.events(claim.run_id), ground.attempts(claim.run_id)

    with pytest.raises(LeaseLostError):
        write(ground.ledger, claim.run_id, claim.fence)

    after = ground.run(claim.run_id), ground.events(claim.run_id), ground.attempts(claim.run_id)
    assert after == before
    with ground.database.transaction() as conn:
        assert runs.checkpoints(conn, ground.tenant_id, claim.run_id) == []


def test_events_are_numbered_without_gaps_and_update_the_run(ground: Ground) -> None:
    claim = ground.held()
    ground.ledger.event(
        claim.run_id,
        claim.fence,
        [
            ChildEvent(type="stage", step=0, data={"stage": "training"}),
            ChildEvent(type="step", step=1, data={"loss": 0.5}),
            ChildEvent(type="warning", step=2, data={"message": "a\0b", "loss": float("nan")}),
        ],
    )
    run = ground.run(claim.run_id)
    events = ground.events(claim.run_id)
    assert (run.stage, run.step, run.event_seq) == ("training", 2, len(events))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data == {"message": "ab", "loss": None}
    assert ground.attempts(claim.run_id)[0].last_step == 2


def test_a_batch_that_is_sent_again_is_stored_once(ground: Ground) -> None:
    claim = ground.held()
    batch = [ChildEvent(type="step", step=n, data={}, number=n) for n in (1, 2, 3)]
    newer = ChildEvent(type="step", step=4, data={}, number=4)

    ground.ledger.event(claim.run_id, claim.fence, batch)
    ground.ledger.event(claim.run_id, claim.fence, [*batch[1:], newer])

    steps = [event.step for event in ground.events(claim.run_id) if event.type == "step"]
    assert steps == [1, 2, 3, 4]


def test_writers_at_once_leave_no_gap(ground: Ground) -> None:
    claim = ground.held()

    def report(step: int) -> None:
        ground.ledger.event(
            claim.run_id, claim.fence, [ChildEvent(type="step", step=step, data={})] * 2
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(1, 41)))
    events = ground.events(claim.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_checkpoint_is_where_the_next_attempt_starts(ground: Ground) -> None:
    claim = ground.held()
    for step in (10, 20, 30):
        ground.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
    ground.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)

    with ground.database.transaction() as conn:
        standing = runs.checkpoints(conn, ground.tenant_id, claim.run_id)
    assert [c.step for c in standing] == [30, 20]  # the plan keeps two
    again = ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
    assert again is not None
    assert again.checkpoint == checkpoint_at(claim, 30)
    assert [a.from_step for a in ground.attempts(claim.run_id)] == [0, 30]


def test_a_checkpoint_committed_twice_counts_once(ground: Ground) -> None:
    claim = ground.held()
    for _ in range(2):
        ground.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 10))
    assert ground.event_types(claim.run_id).count("run.checkpoint") == 1


def test_a_result_committed_twice_counts_once(ground: Ground) -> None:
    claim = ground.held(plan=plan(hub_model_id="ada/dream"))
    for _ in range(2):  # the reply to the first was lost
        ground.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    run = ground.run(claim.run_id)
    assert (run.status, run.result_step, run.is_held) == ("succeeded", 100, False)
    assert run.result_key_prefix == result_of(claim).key_prefix
    assert ground.event_types(claim.run_id).count("run.succeeded") == 1
    assert ground.attempts(claim.run_id)[0].outcome == "finished"
    with ground.database.transaction() as conn:
        (publication,) = publications.list_page(conn, ground.tenant_id, 10, run_id=claim.run_id)
    assert publication.target == {"kind": "hub", "repo_id": "ada/dream", "private": True}
    with pytest.raises(LeaseLostError):
        ground.ledger.commit_result(claim.run_id, claim.fence, result_of(claim, "cc"), step=100)


def test_without_a_hub_the_result_goes_to_the_folder(ground: Ground) -> None:
    claim = ground.held()
    ground.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with ground.database.transaction() as conn:
        (publication,) = publications.list_page(conn, ground.tenant_id, 10)
    assert publication.target == {"kind": "folder"}


@pytest.mark.parametrize(("outcome", "reason"), [("stopped", None), ("failed", failure())])
def test_a_run_handed_back_twice_is_handed_back_once(
    ground: Ground, outcome: str, reason: Failure | None
) -> None:
    claim = ground.held()
    ground.ledger.hand_back(claim.run_id, claim.fence, Outcome(outcome), reason)
    run, attempts = ground.run(claim.run_id), ground.attempts(claim.run_id)
    events = ground.event_types(claim.run_id)

    with pytest.raises(LeaseLostError):  # the reply to the first was lost
        ground.ledger.hand_back(claim.run_id, claim.fence, Outcome(outcome), reason)

    assert (ground.run(claim.run_id), ground.attempts(claim.run_id)) == (run, attempts)
    assert ground.event_types(claim.run_id) == events


def test_stopping_costs_no_attempt_and_no_pause(ground: Ground) -> None:
    claim = ground.held()
    for _ in range(5):
        ground.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
        run = ground.run(claim.run_id)
        assert (run.status, run.stage, run.ring_after) == ("queued", "capacity", None)
        assert run.attempts_without_progress == 0
        again = ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
        assert again is not None
        claim = again


def test_failures_without_progress_end_the_run(ground: Ground) -> None:
    claim = ground.held()
    for attempt in (1, 2, 3):
        ground.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())
        run = ground.run(claim.run_id)
        assert run.attempts_without_progress == attempt
        if attempt < 3:
            assert (run.status, run.stage) == ("queued", "capacity")
            assert run.ring_after is not None
            assert ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE) is None
            ground.due_now(claim.run_id)
            again = ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
            assert again is not None
            claim = again
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "attempts_exhausted"
    assert "child_died." in run.status_reason["message"]


def test_progress_resets_the_budget(ground: Ground) -> None:
    claim = ground.held()
    for step in range(1, 6):
        ground.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
        ground.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())
        assert ground.run(claim.run_id).attempts_without_progress == 0
        ground.due_now(claim.run_id)
        again = ground.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
        assert again is not None
        claim = again


def test_a_users_error_is_not_retried(ground: Ground) -> None:
    claim = ground.held()
    wrong = failure(retryable=False, code="non_finite_loss")
    ground.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, wrong)
    run = ground.run(claim.run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "non_finite_loss"
    assert run.finished_at is not None


def test_the_sweep_closes_a_dead_attempt_and_only_that(ground: Ground) -> None:
    dead, living = ground.held(), ground.held()
    ground.let_lease_run_out(dead.run_id)
    swept = sweep(ground)
    assert swept is not None
    assert (swept.run_id, swept.fence, swept.status) == (dead.run_id, dead.fence, "queued")
    assert sweep(ground) is None
    assert ground.run(dead.run_id).fence == dead.fence  # raised by the next claim, not here
    assert ground.attempts(dead.run_id)[0].outcome == "lost"
    assert ground.run(living.run_id).is_held


def test_two_sweeps_at_once_count_one_loss(ground: Ground) -> None:
    claim = ground.held()
    ground.let_lease_run_out(claim.run_id)
    with ThreadPoolExecutor(8) as pool:
        swept = [s for s in pool.map(lambda _: sweep(ground), range(8)) if s is not None]
    assert len(swept) == 1
    assert ground.run(claim.run_id).attempts_without_progress == 1


@pytest.mark.parametrize(
    ("status", "requested", "afterwards"),
    [
        ("canceling", RequestedAction.CANCEL, "canceled"),
        ("pausing", RequestedAction.PAUSE, "paused"),
    ],
)
@pytest.mark.parametrize("end", ["stopped", "failed", "lost"])
def test_what_is_requested_is_the_answer_to_a_renewal_and_done(
    ground: Ground, status: str, requested: RequestedAction, afterwards: str, end: str
) -> None:
    claim = ground.held()
    with ground.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = %s", (status,))
    assert ground.ledger.renew(claim.run_id, claim.fence, lease=LEASE) is requested
    if end == "lost":
        ground.let_lease_run_out(claim.run_id)
        assert sweep(ground) is not None
    else:
        reason = failure() if end == "failed" else None
        ground.ledger.hand_back(claim.run_id, claim.fence, Outcome(end), reason)
    assert ground.run(claim.run_id).status == afterwards


def test_a_run_that_finishes_while_pausing_succeeds(ground: Ground) -> None:
    claim = ground.held()
    with ground.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = 'pausing'")
    ground.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    assert ground.run(claim.run_id).status == "succeeded"


def test_renewing_moves_the_lease(ground: Ground) -> None:
    claim = ground.held(lease=timedelta(seconds=1))
    ground.ledger.renew(claim.run_id, claim.fence, lease=timedelta(hours=1))
    with ground.database.transaction() as conn:
        row = conn.execute("SELECT lease_until > now() + interval '59 min' FROM runs").fetchone()
    assert row == (True,)
