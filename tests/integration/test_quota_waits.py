"""Runs over a quota of concurrent runs or GPU-hours wait, go on, and stop, on a real PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.domain.ledger import Claim, Outcome, RequestedAction
from services.domain.quotas import Quotas
from services.queue.rings import Rings
from services.store import quotas, run_control
from services.store.database import Database
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase, result_of

_THIS_MONTH = "date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date"


@pytest.fixture
def dispatcher(database: Database, redis_server: RedisServer) -> Iterator[Dispatcher]:
    with Rings(redis_server.url) as rings:
        yield Dispatcher(
            database=database,
            rings=rings,
            health=Health(60),
            offer=timedelta(seconds=10),
            heartbeat=timedelta(seconds=10),
            max_attempts=3,
            quotas=Quotas(concurrent_runs=2, gpu_hours=10),
        )


def limit(tenant_db: TenantDatabase, **limits: float | None) -> None:
    with tenant_db.database.transaction() as conn:
        quotas.change(conn, tenant_db.tenant_id, limits)


def use_hours(tenant_db: TenantDatabase, hours: float, *, months_ago: int = 0) -> None:
    """As charged by earlier attempts."""
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "INSERT INTO monthly_usage (tenant_id, month, gpu_class, charged_s) VALUES"
            f" (%s, {_THIS_MONTH} - make_interval(months => %s), 'cpu', %s)",
            (tenant_db.tenant_id, months_ago, hours * 3600),
        )


def leave_uncharged(tenant_db: TenantDatabase, claim: Claim, hours: float) -> None:
    """The attempt was charged last so many hours ago."""
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE attempts SET charged_until = clock_timestamp() - make_interval(secs => %s)"
            " WHERE run_id = %s AND fence = %s",
            (hours * 3600, claim.run_id, claim.fence),
        )


def stages(tenant_db: TenantDatabase, *run_ids: str) -> list[str | None]:
    return [tenant_db.run(run_id).stage for run_id in run_ids]


def reason_code(tenant_db: TenantDatabase, run_id: str) -> str | None:
    reason = tenant_db.run(run_id).status_reason
    return None if reason is None else str(reason["code"])


def finish(tenant_db: TenantDatabase, claim: Claim) -> None:
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)


def test_a_run_that_is_offered_to_an_indexer_uses_no_quota(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    limit(tenant_db, concurrent_runs=1)
    waiting = tenant_db.claimable().run_id
    tenant_db.queued()
    tenant_db.builder()
    tenant_db.worker()

    dispatcher.ring_for_admission()
    dispatcher.apply_quotas()
    dispatcher.offer_runs()

    assert tenant_db.run(waiting).stage == "capacity"
    assert tenant_db.run(waiting).offered_until is not None


def test_runs_over_the_quota_of_concurrent_runs_wait_until_one_ends(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    other = TenantDatabase.new(tenant_db.database)
    limit(tenant_db, concurrent_runs=1)
    training = tenant_db.held()
    low, high = (tenant_db.claimable(priority=priority).run_id for priority in (0, 1))
    others = other.claimable().run_id

    dispatcher.apply_quotas()
    waiting = stages(tenant_db, low, high)
    claimed = tenant_db.ledger.claim(high, worker_id="w", lease=LEASE)
    finish(tenant_db, training)
    dispatcher.apply_quotas()

    assert waiting == ["quota", "quota"]
    assert claimed is None
    assert other.run(others).stage == "capacity"
    assert stages(tenant_db, low, high) == ["quota", "capacity"]
    assert tenant_db.run(high).status_reason is None
    assert tenant_db.run(low).status_reason == {
        "code": "quota_concurrent_runs",
        "category": "quota",
        "message": (
            "The quota concurrent_runs allows 1 at once. The run starts when another one ends, or "
            "when the operator of the service raises the quota."
        ),
        "retryable": True,
    }
    seen = [(e.type, e.data["stage"]) for e in tenant_db.events(high)][-2:]
    assert seen == [("run.queued", "quota"), ("run.queued", "capacity")]


def test_a_rounds_offers_stay_within_the_quota(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    run_ids = [tenant_db.claimable().run_id for _ in range(5)]
    for _ in range(5):
        tenant_db.worker()

    dispatcher.round()
    dispatcher.round()

    offered = [run_id for run_id in run_ids if tenant_db.run(run_id).offered_until is not None]
    assert len(offered) == 2
    assert stages(tenant_db, *run_ids).count("quota") == 3


def test_the_first_in_line_of_each_gpu_class_goes_on(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    limit(tenant_db, concurrent_runs=0)
    run_ids = [
        tenant_db.claimable(gpu_class=gpu_class).run_id for gpu_class in ("a", "a", "b", "b")
    ]
    dispatcher.apply_quotas()
    before = stages(tenant_db, *run_ids)

    limit(tenant_db, concurrent_runs=1)
    for _ in range(3):
        dispatcher.apply_quotas()

    assert before == ["quota"] * 4
    assert stages(tenant_db, *run_ids) == ["capacity", "quota", "capacity", "quota"]


def test_runs_wait_for_the_next_month_where_the_hours_are_used_up(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    run_id = tenant_db.claimable().run_id
    use_hours(tenant_db, 50, months_ago=1)
    use_hours(tenant_db, 9.999)
    dispatcher.apply_quotas()
    before = stages(tenant_db, run_id)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE monthly_usage SET charged_s = 36000 WHERE charged_s < 36000")
    dispatcher.apply_quotas()
    used_up = (*stages(tenant_db, run_id), reason_code(tenant_db, run_id))
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE monthly_usage SET month = month - interval '2 months'")
    dispatcher.apply_quotas()

    assert before == ["capacity"]
    assert used_up == ("quota", "quota_gpu_hours")
    assert stages(tenant_db, run_id) == ["capacity"]


def test_a_run_that_trains_stops_when_the_hours_are_used_up(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    claim = tenant_db.held()
    scope = (claim.run_id, claim.fence)
    use_hours(tenant_db, 8)
    leave_uncharged(tenant_db, claim, 1.99)
    dispatcher.apply_quotas()
    before = tenant_db.ledger.renew(*scope, lease=LEASE).requested
    leave_uncharged(tenant_db, claim, 2)
    dispatcher.apply_quotas()
    at_the_limit = tenant_db.ledger.renew(*scope, lease=LEASE).requested

    assert (before, at_the_limit) == (RequestedAction.RUN, RequestedAction.STOP)


def test_a_raised_quota_lets_a_stopped_run_go_on(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    claim = tenant_db.held()
    scope = (claim.run_id, claim.fence)
    use_hours(tenant_db, 10)
    dispatcher.apply_quotas()
    tenant_db.ledger.hand_back(*scope, Outcome.STOPPED, None)
    dispatcher.apply_quotas()
    stopped = tenant_db.run(claim.run_id)
    limit(tenant_db, gpu_hours=11)
    dispatcher.apply_quotas()
    again = tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)

    assert (stopped.status, stopped.stage) == ("queued", "quota")
    assert again is not None
    renewed = tenant_db.ledger.renew(claim.run_id, again.fence, lease=LEASE)
    assert renewed.requested is RequestedAction.RUN


def test_a_run_that_waits_shows_the_quota_that_holds_it_now(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    limit(tenant_db, concurrent_runs=0)
    run_id = tenant_db.claimable().run_id
    dispatcher.apply_quotas()
    first = reason_code(tenant_db, run_id)
    use_hours(tenant_db, 10)
    dispatcher.apply_quotas()
    dispatcher.apply_quotas()

    assert (first, reason_code(tenant_db, run_id)) == ("quota_concurrent_runs", "quota_gpu_hours")
    assert [e.data["stage"] for e in tenant_db.events(run_id)].count("quota") == 2


def test_a_pause_after_a_failure_is_not_cut_short(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, None)
    paused_until = tenant_db.run(claim.run_id).ring_after
    limit(tenant_db, concurrent_runs=0)
    dispatcher.apply_quotas()
    limit(tenant_db, concurrent_runs=None)
    dispatcher.apply_quotas()

    assert paused_until is not None
    assert tenant_db.run(claim.run_id).ring_after == paused_until


def test_a_run_that_waits_for_a_quota_can_be_canceled(
    tenant_db: TenantDatabase, dispatcher: Dispatcher
) -> None:
    limit(tenant_db, concurrent_runs=0)
    run_id = tenant_db.claimable().run_id
    dispatcher.apply_quotas()
    with tenant_db.database.transaction() as conn:
        canceled = run_control.cancel(conn, tenant_db.tenant_id, run_id)
    limit(tenant_db, concurrent_runs=None)
    dispatcher.apply_quotas()

    assert canceled.status == "canceled"
    assert tenant_db.run(run_id).status == "canceled"
