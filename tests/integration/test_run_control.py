"""Pause, resume and cancel on a real PostgreSQL: every place that a run can be in."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from services.domain.errors import IllegalTransitionError, NotFoundError
from services.domain.ledger import ChildEvent, Claim, Outcome, RequestedAction
from services.domain.quotas import Quotas
from services.store import (
    admission,
    failing_rows,
    offers,
    quota_waits,
    quotas,
    run_control,
    unreferenced,
)
from services.store.run_rows import Run
from tests.support.runs import (
    INDEX,
    LEASE,
    TenantDatabase,
    checkpoint_at,
    failure,
    needed,
    result_of,
)

SOON = timedelta(seconds=10)


def pause(tenant_db: TenantDatabase, run_id: str) -> Run:
    with tenant_db.database.transaction() as conn:
        return run_control.pause(conn, tenant_db.tenant_id, run_id)


def resume(tenant_db: TenantDatabase, run_id: str) -> Run:
    with tenant_db.database.transaction() as conn:
        return run_control.resume(conn, tenant_db.tenant_id, run_id)


def cancel(tenant_db: TenantDatabase, run_id: str, *, now: bool = False) -> Run:
    with tenant_db.database.transaction() as conn:
        return run_control.cancel(conn, tenant_db.tenant_id, run_id, now=now)


ACTIONS: dict[str, Callable[[TenantDatabase, str], Run]] = {
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "cancel now": lambda tenant_db, run_id: cancel(tenant_db, run_id, now=True),
}


def take_offers(tenant_db: TenantDatabase) -> list[str]:
    with tenant_db.database.transaction() as conn:
        offered = offers.take_offers(
            conn, offer=SOON, silence=SOON, half_life=SOON, aging=SOON, quotas=Quotas()
        )
    return [offer.run_id for offer in offered]


def in_quota(tenant_db: TenantDatabase) -> str:
    run_id = tenant_db.claimable().run_id
    with tenant_db.database.transaction() as conn:
        quota_waits.move(conn, run_id, failure(code="quota_concurrent_runs"))
    return run_id


def offered(tenant_db: TenantDatabase) -> str:
    run_id = tenant_db.claimable().run_id
    tenant_db.worker(node="here")
    assert take_offers(tenant_db) == [run_id]
    return run_id


def in_training(tenant_db: TenantDatabase) -> str:
    claim = tenant_db.held()
    enter(tenant_db, claim, "training")
    return claim.run_id


def enter(tenant_db: TenantDatabase, claim: Claim, stage: str, step: int = 0) -> None:
    event = ChildEvent(type="stage", step=step, data={"stage": stage})
    tenant_db.ledger.event(claim.run_id, claim.fence, [event])


def pausing(tenant_db: TenantDatabase) -> str:
    run_id = in_training(tenant_db)
    assert pause(tenant_db, run_id).status == "pausing"
    return run_id


def paused(tenant_db: TenantDatabase) -> str:
    run_id = tenant_db.claimable().run_id
    assert pause(tenant_db, run_id).status == "paused"
    return run_id


def canceling(tenant_db: TenantDatabase) -> str:
    run_id = tenant_db.held().run_id
    assert cancel(tenant_db, run_id).status == "canceling"
    return run_id


def succeeded(tenant_db: TenantDatabase) -> str:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    return claim.run_id


def failed(tenant_db: TenantDatabase) -> str:
    claim = tenant_db.held()
    own = failure(retryable=False)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, own)
    return claim.run_id


def canceled(tenant_db: TenantDatabase) -> str:
    run_id = tenant_db.queued().run_id
    assert cancel(tenant_db, run_id).status == "canceled"
    return run_id


PLACES: dict[str, Callable[[TenantDatabase], str]] = {
    "queued/admission": lambda tenant_db: tenant_db.queued().run_id,
    "running/caching": lambda tenant_db: tenant_db.caching().run_id,
    "queued/quota": in_quota,
    "queued/capacity": lambda tenant_db: tenant_db.claimable().run_id,
    "offered": offered,
    "running/provisioning": lambda tenant_db: tenant_db.held().run_id,
    "running/training": in_training,
    "pausing": pausing,
    "paused": paused,
    "canceling": canceling,
    "succeeded": succeeded,
    "failed": failed,
    "canceled": canceled,
}
REFUSED = "refused"
TABLE = """
place                 pause                resume                cancel
queued/admission      paused               queued/admission      canceled
running/caching       paused               running/caching       canceled
queued/quota          paused               queued/quota          canceled
queued/capacity       paused               queued/capacity       canceled
offered               paused               queued/capacity       canceled
running/provisioning  pausing/provisioning running/provisioning  canceling/stopping
running/training      pausing/training     running/training      canceling/stopping
pausing               pausing/training     running/training      canceling/stopping
paused                paused               queued/capacity       canceled
canceling             refused              refused               canceling/stopping
succeeded             refused              refused               refused
failed                refused              refused               refused
canceled              refused              refused               canceled
"""
ROWS = {place: outcomes for place, *outcomes in map(str.split, TABLE.splitlines()[2:])}


@pytest.mark.parametrize("place", PLACES)
def test_the_matrix(tenant_db: TenantDatabase, place: str) -> None:
    pauses, resumes, cancels = ROWS[place]
    for action, outcome in zip(ACTIONS, (pauses, resumes, cancels, cancels), strict=True):
        check_cell(tenant_db, PLACES[place](tenant_db), action, outcome)


def check_cell(tenant_db: TenantDatabase, run_id: str, action: str, outcome: str) -> None:
    before = tenant_db.run(run_id)
    if outcome == REFUSED:
        with pytest.raises(IllegalTransitionError):
            ACTIONS[action](tenant_db, run_id)
        assert tenant_db.run(run_id) == before
        return
    after = ACTIONS[action](tenant_db, run_id)
    assert "/".join(filter(None, (after.status, after.stage))) == outcome, action
    assert after == tenant_db.run(run_id)
    assert (after.is_held, after.fence) == (before.is_held, before.fence)
    assert after.cancel_now == (action == "cancel now" and after.status == "canceling")
    if before.status == after.status and not after.cancel_now:
        assert after == before  # nothing is written
    assert ACTIONS[action](tenant_db, run_id) == after  # repeated
    seqs = [event.seq for event in tenant_db.events(run_id)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_another_tenants_run_is_not_found(tenant_db: TenantDatabase) -> None:
    run_id, eve = tenant_db.claimable().run_id, tenant_db.neighbour()
    for act in ACTIONS.values():
        with pytest.raises(NotFoundError):
            act(eve, run_id)
    assert tenant_db.run(run_id).status == "queued"


@pytest.mark.parametrize(
    ("place", "back"),
    [
        ("queued/admission", "queued/admission"),
        ("running/caching", "running/caching"),
        ("queued/quota", "queued/capacity"),  # the quota is asked again
        ("queued/capacity", "queued/capacity"),
        ("offered", "queued/capacity"),
    ],
)
def test_a_resumed_run_waits_for_what_it_lacks(
    tenant_db: TenantDatabase, place: str, back: str
) -> None:
    run_id = PLACES[place](tenant_db)
    pause(tenant_db, run_id)
    resumed = resume(tenant_db, run_id)
    assert f"{resumed.status}/{resumed.stage}" == back
    assert resumed.status_reason is None
    event = tenant_db.events(run_id)[-1]
    assert (event.type, event.data["status"], event.data["stage"]) == (
        "run.resumed",
        resumed.status,
        resumed.stage,
    )


def test_a_paused_run_is_left_alone(tenant_db: TenantDatabase) -> None:
    """It is neither offered nor claimed nor admitted, and takes no place of a quota."""
    run_id, admitting = offered(tenant_db), tenant_db.queued().run_id
    caching = tenant_db.caching(base_model="other").run_id
    for each in (run_id, admitting, caching):
        pause(tenant_db, each)
    before = [tenant_db.run(each) for each in (run_id, admitting, caching)]

    assert tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE) is None
    assert take_offers(tenant_db) == []
    with tenant_db.database.transaction() as conn:
        assert not admission.admit(conn, admitting, INDEX, needed(), [])
        admission.end_caching(conn, caching)
        quota_waits.move(conn, run_id, None)
        failing_rows.count_failure(conn, run_id, failure())
        used = quotas.read(conn, tenant_db.tenant_id, Quotas())

    assert [tenant_db.run(each) for each in (run_id, admitting, caching)] == before
    assert (used["concurrent_runs"].used, used["queued_runs"].used) == (0, 3)


def test_a_run_is_paused_by_its_holder_and_resumes_from_its_checkpoint(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    enter(tenant_db, claim, "training")
    pause(tenant_db, claim.run_id)
    renewal = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    enter(tenant_db, claim, "checkpointing", 7)
    saving = tenant_db.run(claim.run_id)
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 7))
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    resting = tenant_db.run(claim.run_id)
    resume(tenant_db, claim.run_id)
    again = tenant_db.ledger.claim(claim.run_id, worker_id=tenant_db.worker(), lease=LEASE)

    assert renewal.requested is RequestedAction.PAUSE
    assert (saving.status, saving.stage) == ("pausing", "checkpointing")
    assert (resting.status, resting.stage, resting.is_held) == ("paused", None, False)
    assert again is not None
    assert again.checkpoint is not None
    assert (again.fence, again.checkpoint.step) == (2, 7)
    own = [t for t in tenant_db.event_types(claim.run_id) if t.startswith("run.")]
    assert own[-5:] == ["run.pausing", "run.checkpoint", "run.paused", "run.resumed", "run.started"]


def test_time_in_pause_is_not_charged(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    enter(tenant_db, claim, "training")
    pause(tenant_db, claim.run_id)
    enter(tenant_db, claim, "checkpointing")
    with tenant_db.database.transaction() as conn:
        rows = conn.execute("SELECT charged_until FROM attempts").fetchall()
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)

    assert rows == [(None,)]  # the meter is off while it saves
    assert tenant_db.run(claim.run_id).charged_s < 5


def test_the_checkpoints_of_a_paused_run_are_kept(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    stored = checkpoint_at(claim, 7)
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, stored)
    pause(tenant_db, claim.run_id)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 s'")
        (due,) = unreferenced.runs_to_sweep(conn)
        kept = unreferenced.referenced_prefixes(conn, due.run_id)

    assert kept == {stored.files.key_prefix}


@pytest.mark.parametrize(
    ("end", "status"),
    [("own", "failed"), ("infra", "paused"), ("lost", "paused"), ("result", "succeeded")],
)
def test_how_an_attempt_ends_while_it_is_paused(
    tenant_db: TenantDatabase, end: str, status: str
) -> None:
    claim = tenant_db.held()
    pause(tenant_db, claim.run_id)
    ledger, scope = tenant_db.ledger, (claim.run_id, claim.fence)
    match end:
        case "result":
            ledger.commit_result(*scope, result_of(claim), step=100)
        case "lost":
            tenant_db.let_lease_run_out(claim.run_id)
            assert tenant_db.sweep(max_attempts=3) is not None
        case _:
            ledger.hand_back(*scope, Outcome.FAILED, failure(retryable=end == "infra"))
    assert tenant_db.run(claim.run_id).status == status


def test_a_pause_that_is_taken_back_leaves_the_holder_its_run(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    enter(tenant_db, claim, "training")
    pause(tenant_db, claim.run_id)
    resume(tenant_db, claim.run_id)
    went_on = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    # The holder had read the request before: the run is queued again.
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    run = tenant_db.run(claim.run_id)

    assert went_on.requested is RequestedAction.RUN
    assert (run.status, run.stage) == ("queued", "capacity")


def test_a_graceful_cancel_can_be_hurried(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    cancel(tenant_db, claim.run_id)
    first = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE).requested
    cancel(tenant_db, claim.run_id, now=True)
    cancel(tenant_db, claim.run_id)  # which does not take it back
    second = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE).requested

    assert (first, second) == (RequestedAction.CANCEL, RequestedAction.CANCEL_NOW)
    assert tenant_db.event_types(claim.run_id).count("run.canceling") == 1
