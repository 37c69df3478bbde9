"""Offers name a worker; which one depends on the run, and never changes which run goes next."""

from datetime import timedelta

from services.domain.fair_share import AGING, HALF_LIFE
from services.domain.ledger import ChildEvent, Outcome
from services.domain.placement import FreeWorker, NextRun, place
from services.domain.quotas import Quotas
from services.store import offers
from services.store.offers import Offer
from tests.support.runs import LEASE, TenantDatabase, failure

MINUTE = timedelta(minutes=1)


def take_offers(tenant_db: TenantDatabase, *, aging: timedelta = AGING) -> list[Offer]:
    with tenant_db.database.transaction() as conn:
        return offers.take_offers(
            conn,
            offer=MINUTE,
            silence=MINUTE,
            half_life=HALF_LIFE,
            aging=aging,
            quotas=Quotas(),
        )


def let_offers_pass(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET offered_until = clock_timestamp() WHERE status = 'queued'")


def claim_and_end(
    tenant_db: TenantDatabase, offer: Offer, outcome: Outcome, *, trained: bool
) -> None:
    assert offer.worker_id is not None
    claim = tenant_db.ledger.claim(offer.run_id, worker_id=offer.worker_id, lease=LEASE)
    assert claim is not None
    if trained:
        training = ChildEvent(type="stage", step=0, data={"stage": "training"}, number=1)
        tenant_db.ledger.event(claim.run_id, claim.fence, [training])
    reason = failure() if outcome is Outcome.FAILED else None
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, outcome, reason)
    tenant_db.due_now(offer.run_id)


def test_only_the_named_worker_can_claim_while_the_offer_stands(tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.claimable().run_id
    named, other = tenant_db.worker(node="a"), tenant_db.worker(node="b", draining=True)
    (offer,) = take_offers(tenant_db)
    assert offer.worker_id == named
    assert take_offers(tenant_db) == []
    assert tenant_db.ledger.claim(run_id, worker_id=other, lease=LEASE) is None
    let_offers_pass(tenant_db)
    assert tenant_db.ledger.claim(run_id, worker_id=other, lease=LEASE) is not None


def test_workers_without_a_node_get_offers_that_anyone_can_claim(
    tenant_db: TenantDatabase,
) -> None:
    run_ids = [tenant_db.claimable().run_id for _ in range(4)]
    tenant_db.worker()
    tenant_db.worker()
    first = take_offers(tenant_db)
    assert [offer.worker_id for offer in first] == [None, None]
    assert take_offers(tenant_db) == []
    named = tenant_db.worker(node="a")
    (offer,) = take_offers(tenant_db)
    assert (offer.run_id, offer.worker_id) == (run_ids[2], named)
    assert tenant_db.ledger.claim(first[1].run_id, worker_id=named, lease=LEASE) is not None


def test_a_failed_run_goes_to_another_machine(tenant_db: TenantDatabase) -> None:
    tenant_db.claimable()
    workers = {tenant_db.worker(node="a"): "a", tenant_db.worker(node="b"): "b"}
    (offer,) = take_offers(tenant_db)
    assert offer.worker_id is not None
    bad = workers.pop(offer.worker_id)
    tenant_db.worker(node=bad)  # another worker of the same machine, with a newer heartbeat
    claim_and_end(tenant_db, offer, Outcome.FAILED, trained=True)
    assert [attempt.node for attempt in tenant_db.attempts(offer.run_id)] == [bad]
    (offer,) = take_offers(tenant_db)
    assert offer.worker_id in workers
    with tenant_db.database.transaction() as conn:  # the only other machine is gone
        conn.execute("DELETE FROM workers WHERE node <> %s", (bad,))
    let_offers_pass(tenant_db)
    (offer,) = take_offers(tenant_db)
    assert offer.worker_id is not None


def test_an_offer_that_was_not_answered_goes_to_another_worker(tenant_db: TenantDatabase) -> None:
    tenant_db.claimable()
    workers = [tenant_db.worker(node="a") for _ in range(3)]
    (first,) = take_offers(tenant_db)
    let_offers_pass(tenant_db)
    (second,) = take_offers(tenant_db)
    assert first.worker_id != second.worker_id
    assert {first.worker_id, second.worker_id} <= set(workers)


def test_a_run_goes_where_its_base_model_was_read(tenant_db: TenantDatabase) -> None:
    tenant_db.claimable(base_model="warm")
    warm = tenant_db.worker(node="a")
    (offer,) = take_offers(tenant_db)
    claim_and_end(tenant_db, offer, Outcome.STOPPED, trained=True)
    tenant_db.worker(node="b")  # its heartbeat is newer
    (offer,) = take_offers(tenant_db)
    assert offer.worker_id == warm
    claim_and_end(tenant_db, offer, Outcome.STOPPED, trained=False)
    with tenant_db.database.transaction() as conn:
        row = conn.execute(
            "SELECT base_models FROM workers WHERE worker_id = %s", (warm,)
        ).fetchone()
    assert row == (["warm"],)


def test_affinity_does_not_change_which_run_goes_next(tenant_db: TenantDatabase) -> None:
    first = tenant_db.claimable(base_model="cold").run_id
    tenant_db.claimable(base_model="warm")
    worker = tenant_db.worker(node="a")
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE workers SET base_models = '{warm}'")
    (offer,) = take_offers(tenant_db)
    assert (offer.run_id, offer.worker_id) == (first, worker)


def test_a_run_that_waits_goes_like_one_of_a_higher_priority(tenant_db: TenantDatabase) -> None:
    low = tenant_db.claimable(priority=-1).run_id
    normal = tenant_db.claimable().run_id
    high = tenant_db.claimable(priority=1).run_id
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE runs SET created_at = created_at - interval '7 hours' WHERE run_id = %s", (low,)
        )
    for _ in range(3):
        tenant_db.worker(node="a")
    order = [offer.run_id for offer in take_offers(tenant_db, aging=timedelta(hours=6))]
    assert order == [high, low, normal]
    let_offers_pass(tenant_db)
    order = [offer.run_id for offer in take_offers(tenant_db, aging=timedelta(days=1))]
    assert order == [high, normal, low]


def test_a_machine_that_failed_is_better_than_none() -> None:
    worker = FreeWorker(worker_id="w", gpu_class="cpu", node="a", base_models=[])
    run = NextRun(run_id="r", base_model="m", unanswered_by="w", failed_on="a")
    assert place(run, [worker]) is worker
