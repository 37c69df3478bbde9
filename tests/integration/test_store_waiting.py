"""Each waiting run says why, where it is in its tenant's line, and when it is expected to start."""

from datetime import timedelta
from typing import Any

import pytest

from services.domain.fair_share import AGING
from services.domain.ledger import Outcome
from services.domain.waiting import Waiting
from services.store import datasets, failing_rows, run_lists, waiting
from tests.support.runs import LEASE, TenantDatabase, failure

MINUTE = timedelta(minutes=1)


def all_waiting(tenant_db: TenantDatabase) -> dict[str, Waiting]:
    with tenant_db.database.transaction() as conn:
        found = run_lists.list_page(conn, tenant_db.tenant_id, 100)
        return waiting.of_runs(conn, tenant_db.tenant_id, found, aging=AGING, silence=MINUTE)


def code_of(tenant_db: TenantDatabase, run_id: str) -> str:
    return all_waiting(tenant_db)[run_id].code


def started_before(tenant_db: TenantDatabase, tenant_id: str, minutes: int) -> None:
    """An attempt of the tenant that was started this long ago."""
    other = TenantDatabase(
        database=tenant_db.database, tenant_id=tenant_id, ledger=tenant_db.ledger
    )
    claim = other.held()
    other.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure(retryable=False))
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE attempts SET started_at = started_at - make_interval(mins => %s)"
            " WHERE run_id = %s",
            (minutes, claim.run_id),
        )


def test_the_code_follows_the_run(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        dataset = tenant_db.dataset(conn, ready=False)
    run_id = tenant_db.queued(datasets={"photos": dataset.dataset_id}).run_id
    assert code_of(tenant_db, run_id) == "waiting_for_data"
    with tenant_db.database.transaction() as conn:
        datasets.complete(conn, tenant_db.tenant_id, dataset.dataset_id)
        conn.execute("UPDATE datasets SET status = 'ready'")
    assert code_of(tenant_db, run_id) == "waiting_for_admission"
    with tenant_db.database.transaction() as conn:
        missing = failure(code="base_model_missing")
        failing_rows.postpone(conn, run_id, after=MINUTE, reason=missing)
    assert code_of(tenant_db, run_id) == "waiting_for_base_model"

    run_id = tenant_db.caching().run_id
    assert code_of(tenant_db, run_id) == "waiting_for_cache"
    tenant_db.build_shard()
    run_id = tenant_db.claimable().run_id
    assert code_of(tenant_db, run_id) == "no_worker_of_this_class"
    tenant_db.worker(draining=True)
    tenant_db.worker(gpu_class="h200")
    assert code_of(tenant_db, run_id) == "no_worker_of_this_class"
    worker_id = tenant_db.worker()
    assert code_of(tenant_db, run_id) == "waiting_for_a_worker"
    claim = tenant_db.ledger.claim(run_id, worker_id=worker_id, lease=LEASE)
    assert claim is not None
    assert run_id not in all_waiting(tenant_db)
    tenant_db.ledger.hand_back(run_id, claim.fence, Outcome.FAILED, failure())
    assert code_of(tenant_db, run_id) == "waiting_to_retry"


def test_positions_count_the_tenants_own_runs(tenant_db: TenantDatabase) -> None:
    other = tenant_db.neighbour()
    for _ in range(3):
        other.claimable()
    first, second = tenant_db.claimable().run_id, tenant_db.claimable().run_id
    high = tenant_db.claimable(priority=1).run_id
    elsewhere = tenant_db.claimable(gpu_class="h200").run_id
    positions = {run_id: each.position for run_id, each in all_waiting(tenant_db).items()}
    assert positions == {high: 1, first: 2, second: 3, elsewhere: 1}


@pytest.mark.parametrize(
    ("own", "of_bob", "eta_s"),
    [
        pytest.param([10, 20, 30, 59, 61], [5], 2 * 3600 / 4, id="its own rate"),
        pytest.param([], [5, 50, 61], 2 * 2 * 3600 / 2, id="its part of the class's rate"),
        pytest.param([], [61], None, id="nothing started"),
    ],
)
def test_the_eta_follows_the_last_hour(
    tenant_db: TenantDatabase, own: list[int], of_bob: list[int], eta_s: float | None
) -> None:
    other = tenant_db.neighbour()
    for minutes in own:
        started_before(tenant_db, tenant_db.tenant_id, minutes)
    for minutes in of_bob:
        started_before(tenant_db, other.tenant_id, minutes)
    other.claimable()
    tenant_db.claimable()
    second = tenant_db.claimable().run_id
    tenant_db.worker()
    assert all_waiting(tenant_db)[second].eta_s == pytest.approx(eta_s)


def test_another_tenants_runs_are_not_told_of(tenant_db: TenantDatabase) -> None:
    run = tenant_db.claimable()
    facts: dict[str, Any] = {"aging": AGING, "silence": MINUTE}
    other = tenant_db.neighbour()
    with tenant_db.database.transaction() as conn:
        assert waiting.of_runs(conn, other.tenant_id, [run], **facts) == {}
