"""Dead leases, and leases after an outage of the database, as the dispatcher sweeps them."""

import pytest

from services.dispatcher.loop import Dispatcher
from services.store.database import DatabaseDownError
from tests.support.dispatching import Clock, let_health_recover
from tests.support.postgres import PostgresServer
from tests.support.runs import LEASE, TenantDatabase


def test_a_dead_lease_is_swept_only_by_a_dispatcher_without_an_outage(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, clock: Clock
) -> None:
    claim = tenant_db.held()
    tenant_db.let_lease_run_out(claim.run_id)
    dispatcher.round()
    assert tenant_db.run(claim.run_id).is_held
    let_health_recover(dispatcher, clock)
    dispatcher.round()
    assert not tenant_db.run(claim.run_id).is_held
    assert tenant_db.attempts(claim.run_id)[0].outcome == "lost"


def test_a_sweep_with_a_database_outage_inside_is_rolled_back(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, clock: Clock
) -> None:
    claim = tenant_db.held()
    let_health_recover(dispatcher, clock)
    tenant_db.let_lease_run_out(claim.run_id)
    # Read after the first statement, before the sweep, and before its commit.
    clock.jumps_s = [0, 0, 40]
    dispatcher.sweep()
    assert clock.jumps_s == []
    assert tenant_db.run(claim.run_id).is_held
    assert tenant_db.attempts(claim.run_id)[0].outcome is None


def test_after_an_outage_holders_get_a_fresh_lease(
    postgres_server: PostgresServer, tenant_db: TenantDatabase, dispatcher: Dispatcher, clock: Clock
) -> None:
    claim = tenant_db.held()
    let_health_recover(dispatcher, clock)
    tenant_db.let_lease_run_out(claim.run_id)
    postgres_server.stop("immediate")
    try:
        with pytest.raises(DatabaseDownError):
            dispatcher.round()
    finally:
        postgres_server.start()
    dispatcher.round()
    assert tenant_db.run(claim.run_id).is_held
    tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    let_health_recover(dispatcher, clock)
    dispatcher.round()
    assert tenant_db.run(claim.run_id).is_held
