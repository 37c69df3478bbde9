"""GPU time is charged once: to the attempt, the run, the tenant's month and its share."""

from datetime import timedelta

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ledger import ChildEvent, Claim, Outcome
from services.store import usage
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.runs import LEASE, TenantDatabase, failure, result_of

HALF_LIFE = timedelta(days=1)
HOUR_MICROS = 3_600_000
"""A price of 1,000 micros a second."""


@pytest.fixture
def tenant_db(database: Database) -> TenantDatabase:
    made = TenantDatabase.new(database)
    with database.transaction() as conn:
        conn.execute(
            "INSERT INTO gpu_classes (gpu_class, price_micros_per_hour) VALUES ('cpu', %s)",
            (HOUR_MICROS,),
        )
    ledger = PostgresLedger(database, max_attempts=3, half_life=HALF_LIFE)
    return TenantDatabase(database=database, tenant_id=made.tenant_id, ledger=ledger)


def stage(tenant_db: TenantDatabase, claim: Claim, name: str, number: int) -> None:
    event = ChildEvent(type="stage", step=0, data={"stage": name}, number=number)
    tenant_db.ledger.event(claim.run_id, claim.fence, [event])


def let_pass(tenant_db: TenantDatabase, claim: Claim, elapsed_s: float) -> None:
    """Move the attempt's last charge into the past, and its lease as well."""
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE attempts SET charged_until = charged_until - make_interval(secs => %s)"
            " WHERE run_id = %s AND fence = %s",
            (elapsed_s, claim.run_id, claim.fence),
        )


def charged_s(tenant_db: TenantDatabase, claim: Claim) -> float:
    """Of the run; the other three counts must agree."""
    with tenant_db.database.transaction() as conn:
        (of_run, cost), *_ = conn.execute(
            "SELECT charged_s, cost_micros FROM runs WHERE run_id = %s", (claim.run_id,)
        )
        (of_attempts, attempts_cost), *_ = conn.execute(
            "SELECT sum(charged_s), sum(cost_micros) FROM attempts WHERE run_id = %s",
            (claim.run_id,),
        )
        (of_month, month_cost), *_ = conn.execute(
            "SELECT coalesce(sum(charged_s), 0), coalesce(sum(cost_micros), 0) FROM monthly_usage"
        )
        (of_share,), *_ = conn.execute("SELECT coalesce(sum(decayed_s), 0) FROM tenant_usage")
    assert of_run == pytest.approx(of_attempts) == pytest.approx(of_month)
    assert of_share == pytest.approx(of_run, rel=1e-3)
    assert cost == attempts_cost == month_cost
    assert float(cost) == pytest.approx(of_run * 1000, abs=1)
    return float(of_run)


def test_training_and_sampling_are_charged_and_nothing_else(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    expected_s = 0.0
    for number, (name, is_charged) in enumerate(
        [
            ("loading", False),
            ("training", True),
            ("sampling", True),
            ("checkpointing", False),
            ("evaluating", True),
            ("training", True),
            ("finalizing", False),
        ],
        start=1,
    ):
        stage(tenant_db, claim, name, number)
        assert charged_s(tenant_db, claim) == pytest.approx(expected_s, abs=1)
        for _ in range(2):
            let_pass(tenant_db, claim, 30)
            tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
        expected_s += 60 * is_charged
        assert charged_s(tenant_db, claim) == pytest.approx(expected_s, abs=1)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    assert charged_s(tenant_db, claim) == pytest.approx(240, abs=1)


def test_the_end_is_charged_once(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    stage(tenant_db, claim, "training", 1)
    let_pass(tenant_db, claim, 40)
    for _ in range(2):  # the reply to the first was lost
        tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    assert charged_s(tenant_db, claim) == pytest.approx(40, abs=1)


def test_a_stale_holder_charges_nothing(tenant_db: TenantDatabase) -> None:
    old = tenant_db.held()
    stage(tenant_db, old, "training", 1)
    let_pass(tenant_db, old, 20)
    tenant_db.ledger.hand_back(old.run_id, old.fence, Outcome.FAILED, failure())
    tenant_db.due_now(old.run_id)
    new = tenant_db.ledger.claim(old.run_id, worker_id=tenant_db.worker(), lease=LEASE)
    assert new is not None
    let_pass(tenant_db, old, 1000)
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.renew(old.run_id, old.fence, lease=LEASE)
    with pytest.raises(LeaseLostError):
        stage(tenant_db, old, "sampling", 2)
    assert charged_s(tenant_db, old) == pytest.approx(20, abs=1)
    stage(tenant_db, new, "training", 1)
    let_pass(tenant_db, new, 10)
    tenant_db.ledger.renew(new.run_id, new.fence, lease=LEASE)
    assert charged_s(tenant_db, new) == pytest.approx(30, abs=1)


def test_time_without_a_lease_is_not_charged(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    stage(tenant_db, claim, "training", 1)
    let_pass(tenant_db, claim, 100)
    with tenant_db.database.transaction() as conn:  # it ran out 70 s ago, and nobody swept
        conn.execute("UPDATE runs SET lease_until = clock_timestamp() - interval '70 s'")
    tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    assert charged_s(tenant_db, claim) == pytest.approx(30, abs=1)
    let_pass(tenant_db, claim, 50)
    tenant_db.let_lease_run_out(claim.run_id)
    assert tenant_db.sweep(max_attempts=3) is not None
    assert charged_s(tenant_db, claim) == pytest.approx(30, abs=1)


def test_use_fades(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    stage(tenant_db, claim, "training", 1)
    let_pass(tenant_db, claim, 48)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    for days, left_s in ((0, 48), (1, 24), (3, 6), (100_000, 0)):
        with tenant_db.database.transaction() as conn:
            conn.execute(
                "UPDATE tenant_usage"
                " SET decayed_at = clock_timestamp() - make_interval(days => %s)",
                (days,),
            )
            (share,) = usage.shares(conn, "cpu", half_life=HALF_LIFE)
        assert share.used_s == pytest.approx(left_s, abs=1)
        assert share.run_s == pytest.approx(48, abs=1)


def test_what_runs_ahead_counts_until_it_is_charged(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "INSERT INTO tenant_usage (tenant_id, gpu_class, mean_attempt_s)"
            " VALUES (%s, 'cpu', 100)",
            (tenant_db.tenant_id,),
        )
    claim = tenant_db.held()
    tenant_db.claimable()
    for elapsed_s, used_s in ((0, 100), (40, 100), (160, 200)):
        stage(tenant_db, claim, "training", elapsed_s + 1)
        let_pass(tenant_db, claim, elapsed_s)
        tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
        with tenant_db.database.transaction() as conn:
            (share,) = usage.shares(conn, "cpu", half_life=HALF_LIFE)
        assert share.used_s == pytest.approx(used_s, abs=1)
