"""Claims of runs on a real PostgreSQL: who gets a run, and which runs nobody gets."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.domain.ids import new_id
from services.domain.ledger import (
    Claim,
    LedgerDownError,
    Outcome,
    RequestedAction,
)
from services.store import leases
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.runs import (
    LEASE,
    TenantDatabase,
    stored_shard,
)


def sweep(tenant_db: TenantDatabase) -> leases.DeadAttempt | None:
    return tenant_db.sweep(max_attempts=3)


def test_of_twenty_concurrent_claims_one_succeeds(tenant_db: TenantDatabase) -> None:
    run = tenant_db.claimable()
    start = threading.Barrier(20)

    def claim(_: int) -> object:
        start.wait()
        return tenant_db.ledger.claim(run.run_id, worker_id=new_id("wrk"), lease=LEASE)

    with ThreadPoolExecutor(20) as pool:
        claims = [claim for claim in pool.map(claim, range(20)) if claim is not None]
    assert len(claims) == 1
    assert tenant_db.run(run.run_id).fence == 1
    assert [a.fence for a in tenant_db.attempts(run.run_id)] == [1]
    assert tenant_db.event_types(run.run_id).count("run.started") == 1


@pytest.mark.deep
def test_of_two_claims_at_the_same_instant_one_succeeds_a_thousand_times(
    tenant_db: TenantDatabase,
) -> None:
    run_id = tenant_db.claimable().run_id
    start = threading.Barrier(2)

    def claim(worker_id: str) -> Claim | None:
        start.wait()
        return tenant_db.ledger.claim(run_id, worker_id=worker_id, lease=LEASE)

    with ThreadPoolExecutor(2) as pool:
        for fence in range(1, 1001):
            claims = [each for each in pool.map(claim, ("a", "b")) if each is not None]
            assert [each.fence for each in claims] == [fence]
            tenant_db.ledger.hand_back(run_id, fence, Outcome.STOPPED, None)
    assert tenant_db.run(run_id).fence == 1000


def test_a_claim_returns_everything_needed_for_training(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    run = tenant_db.run(claim.run_id)
    assert (run.status, run.stage, run.fence) == ("running", "provisioning", 1)
    assert claim.tenant_id == tenant_db.tenant_id
    assert claim.data_index == {"version": 2}
    assert claim.shards == (stored_shard(),)
    assert claim.checkpoint is None
    assert run.started_at is not None


def test_a_run_that_is_not_ready_is_not_claimed(tenant_db: TenantDatabase) -> None:
    waiting = tenant_db.queued()
    caching = tenant_db.caching()
    for run in (waiting, caching):
        assert tenant_db.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None
    assert tenant_db.ledger.claim(new_id("run"), worker_id="w", lease=LEASE) is None


def test_an_unexpected_error_of_a_claim_postpones_the_run(tenant_db: TenantDatabase) -> None:
    run = tenant_db.claimable()
    with tenant_db.database.transaction() as conn:
        corrupt = "UPDATE run_documents SET data_index = 'null' WHERE run_id = %s"
        conn.execute(corrupt, (run.run_id,))

    with pytest.raises(AssertionError):
        tenant_db.ledger.claim(run.run_id, worker_id="w", lease=LEASE)

    postponed = tenant_db.run(run.run_id)
    assert postponed.status == "queued"
    assert postponed.ring_after is not None
    assert postponed.status_reason is not None
    assert postponed.status_reason["code"] == "internal_error"
    assert tenant_db.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None


def test_a_claim_that_the_database_gives_up_postpones_the_run(
    tenant_db: TenantDatabase, database_url: str
) -> None:
    run = tenant_db.claimable()
    impatient = Database(database_url, 2, lock_timeout=timedelta(seconds=0.2))
    with tenant_db.database.transaction() as elsewhere:
        elsewhere.execute("LOCK TABLE run_documents IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(LedgerDownError):
            PostgresLedger(impatient).claim(run.run_id, worker_id="w", lease=LEASE)

    impatient.close()
    postponed = tenant_db.run(run.run_id)
    assert (postponed.status, postponed.dispatch_failures) == ("queued", 0)
    assert postponed.ring_after is not None
    assert postponed.status_reason is not None
    assert postponed.status_reason["code"] == "database_busy"


def test_a_run_with_a_missing_shard_is_not_claimed(tenant_db: TenantDatabase) -> None:
    run = tenant_db.claimable()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET status = 'pending'")
    assert tenant_db.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None


def test_a_run_with_an_expired_lease_is_not_claimed_before_the_sweep(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    tenant_db.let_lease_run_out(claim.run_id)
    assert tenant_db.ledger.claim(claim.run_id, worker_id="thief", lease=LEASE) is None
    renewal = tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    assert renewal.requested is RequestedAction.RUN
