"""One contract for the ledger: in the database itself, and over HTTPS."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ledger import (
    ChildEvent,
    Claim,
    Ledger,
    Outcome,
    Printed,
    RequestedAction,
)
from services.domain.starts import StartObject, StoredStart
from services.store import run_logs, runs
from tests.support.boxes import Box
from tests.support.fleet import Fleet
from tests.support.runs import (
    LEASE,
    TenantDatabase,
    checkpoint_at,
    failure,
    result_of,
    stored_shard,
)
from tests.support.service import database_of

Take = Callable[[str], tuple[Ledger, Claim]]
"""A new worker claims the run: its ledger, and the claim."""


@pytest.fixture
def tenant_db(fleet: Fleet) -> Iterator[TenantDatabase]:
    with database_of(fleet) as database:
        yield TenantDatabase.new(database)
        with database.transaction() as conn:  # nothing of this test is swept or claimed in the next
            conn.execute(
                "UPDATE runs SET status = 'canceled', lease_until = NULL, offered_to = NULL"
            )


@pytest.fixture(params=["postgres", "https"])
def take(request: pytest.FixtureRequest, fleet: Fleet, tenant_db: TenantDatabase) -> Take:
    def take_directly(run_id: str) -> tuple[Ledger, Claim]:
        claim = tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE)
        assert claim is not None
        return tenant_db.ledger, claim

    def take_over_https(run_id: str) -> tuple[Ledger, Claim]:
        box = Box(fleet.url, tenant_db.database)
        box.is_offered(run_id)
        claim = box.claims(run_id)
        assert claim is not None
        return box.ledger, claim

    return take_directly if request.param == "postgres" else take_over_https


def lose(tenant_db: TenantDatabase, run_id: str) -> None:
    """Let the lease run out, and make the run claimable again."""
    tenant_db.let_lease_run_out(run_id)
    assert tenant_db.sweep(max_attempts=3) is not None
    tenant_db.due_now(run_id)


def test_a_claim_has_everything_that_training_needs(tenant_db: TenantDatabase, take: Take) -> None:
    file = StartObject(name="a.safetensors", key="tenants/x/y", sha256="1" * 64, size_bytes=7)
    start = StoredStart(source="run_7", step=10, files=(file,))
    run = tenant_db.claimable(max_cost_micros=10**9, start_adapter=start.as_json())
    _, claim = take(run.run_id)

    assert (claim.run_id, claim.tenant_id, claim.fence) == (run.run_id, tenant_db.tenant_id, 1)
    assert claim.plan == tenant_db.documents(run.run_id).plan
    assert claim.data_index == {"version": 2}
    assert claim.shards == (stored_shard(),)
    assert (claim.checkpoint, claim.older_checkpoints) == (None, ())
    assert claim.base_model == "hidream-tiny"
    assert claim.start == start


def test_the_next_attempt_starts_at_the_newest_checkpoint(
    tenant_db: TenantDatabase, take: Take
) -> None:
    run_id = tenant_db.claimable().run_id
    ledger, claim = take(run_id)
    for step in (10, 20):
        ledger.commit_checkpoint(run_id, claim.fence, checkpoint_at(claim, step))
    ledger.hand_back(run_id, claim.fence, Outcome.STOPPED, None)

    _, again = take(run_id)

    assert again.fence == 2
    assert again.checkpoint == checkpoint_at(claim, 20)
    assert again.older_checkpoints == (checkpoint_at(claim, 10),)


@pytest.mark.parametrize(
    ("status", "requested"),
    [
        ("running", RequestedAction.RUN),
        ("pausing", RequestedAction.PAUSE),
        ("canceling", RequestedAction.CANCEL),
    ],
)
def test_a_renewal_says_what_is_requested(
    tenant_db: TenantDatabase, take: Take, status: str, requested: RequestedAction
) -> None:
    run_id = tenant_db.claimable().run_id
    ledger, claim = take(run_id)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = %s WHERE run_id = %s", (status, run_id))

    renewal = ledger.renew(run_id, claim.fence, lease=LEASE)

    assert (renewal.requested, renewal.budget_s) == (requested, None)


def test_a_renewal_says_what_may_be_charged(tenant_db: TenantDatabase, take: Take) -> None:
    run_id = tenant_db.claimable(max_gpu_s=3600.0).run_id
    ledger, claim = take(run_id)

    assert claim.budget_s == 3600
    assert ledger.renew(run_id, claim.fence, lease=LEASE).budget_s == 3600


EVENTS = [
    ChildEvent(type="stage", step=0, data={"stage": "training", "t_s": 1.5}, number=1),
    ChildEvent(type="step", step=1, data={"loss": float("nan"), "text": "a\0b"}, number=2),
    ChildEvent(type="warning", step=1, data={"code": "checkpoint_corrupt"}),
]
PRINTED = Printed(start_byte=0, num_bytes=6, text="h\u00e9llo")
WRITES: dict[str, Callable[[Ledger, Claim], object]] = {
    "renew": lambda ledger, c: ledger.renew(c.run_id, c.fence, lease=LEASE),
    "event": lambda ledger, c: ledger.event(c.run_id, c.fence, EVENTS),
    "log": lambda ledger, c: ledger.log(c.run_id, c.fence, PRINTED),
    "checkpoint": lambda ledger, c: ledger.commit_checkpoint(
        c.run_id, c.fence, checkpoint_at(c, 5)
    ),
    "rebuild": lambda ledger, c: ledger.rebuild_shard(c.run_id, c.fence, c.shards[0]),
    "result": lambda ledger, c: ledger.commit_result(c.run_id, c.fence, result_of(c), step=100),
    "stop": lambda ledger, c: ledger.hand_back(c.run_id, c.fence, Outcome.STOPPED, None),
    "fail": lambda ledger, c: ledger.hand_back(c.run_id, c.fence, Outcome.FAILED, failure()),
}


def stored(tenant_db: TenantDatabase, run_id: str) -> object:
    """All that a write may change, without the lease's end."""
    with tenant_db.database.transaction() as conn:
        return (
            replace(tenant_db.run(run_id), lease_until=None),
            tenant_db.events(run_id),
            tenant_db.attempts(run_id),
            run_logs.page(conn, tenant_db.tenant_id, run_id, 0, 10),
            runs.checkpoints(conn, tenant_db.tenant_id, run_id),
        )


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_arrives_again_changes_nothing_and_is_answered(
    tenant_db: TenantDatabase, take: Take, write: Callable[[Ledger, Claim], object]
) -> None:
    ledger, claim = take(tenant_db.claimable().run_id)
    write(ledger, claim)
    before = stored(tenant_db, claim.run_id)

    write(ledger, claim)

    assert stored(tenant_db, claim.run_id) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_of_a_former_holder_is_refused(
    tenant_db: TenantDatabase, take: Take, write: Callable[[Ledger, Claim], object]
) -> None:
    former, claim = take(tenant_db.claimable().run_id)
    lose(tenant_db, claim.run_id)
    for _ in range(2):  # while nobody holds the run, and while another does
        before = stored(tenant_db, claim.run_id)
        with pytest.raises(LeaseLostError):
            write(former, claim)
        assert stored(tenant_db, claim.run_id) == before
        if not tenant_db.run(claim.run_id).is_held:
            take(claim.run_id)


def test_a_hand_back_does_not_end_in_two_ways(tenant_db: TenantDatabase, take: Take) -> None:
    ledger, claim = take(tenant_db.claimable().run_id)
    ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)

    with pytest.raises(LeaseLostError):
        ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())


def test_a_checkpoint_that_arrives_again_after_the_next_is_not_committed_again(
    tenant_db: TenantDatabase, take: Take
) -> None:
    ledger, claim = take(tenant_db.claimable().run_id)
    for step in (10, 20, 30):  # the plan keeps two
        ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
    before = stored(tenant_db, claim.run_id)

    ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 10))

    assert stored(tenant_db, claim.run_id) == before


def test_events_and_output_arrive_as_they_were(tenant_db: TenantDatabase, take: Take) -> None:
    ledger, claim = take(tenant_db.claimable().run_id)
    ledger.event(claim.run_id, claim.fence, EVENTS)
    ledger.log(claim.run_id, claim.fence, PRINTED)

    events = tenant_db.events(claim.run_id)[-3:]
    assert [(each.type, each.step) for each in events] == [(e.type, e.step) for e in EVENTS]
    assert events[0].data == {"stage": "training", "t_s": 1.5}
    assert events[1].data == {"loss": None, "text": "ab"}
    with tenant_db.database.transaction() as conn:
        (piece,) = run_logs.page(conn, tenant_db.tenant_id, claim.run_id, 0, 10)
    assert (piece.start_byte, piece.num_bytes, piece.text) == (0, 6, "h\u00e9llo")


def test_only_a_shard_that_is_damaged_now_is_built_again(
    tenant_db: TenantDatabase, take: Take
) -> None:
    ledger, claim = take(tenant_db.claimable().run_id)
    (shard,) = claim.shards
    other = replace(shard, manifest_sha256=hashlib.sha256(b"another").hexdigest())

    assert not ledger.rebuild_shard(claim.run_id, claim.fence, other)
    assert ledger.rebuild_shard(claim.run_id, claim.fence, shard)
    assert not ledger.rebuild_shard(claim.run_id, claim.fence, shard)
