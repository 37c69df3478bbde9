"""A lease whose renewals are refused: another holds the run, or its own call has ended it."""

import threading

import pytest

from services.domain.ledger import LedgerDownError, Outcome
from services.store.database import Database
from services.trainer.budget import Budget
from services.trainer.lease import GivenUpError, Lease, LeaseTimes
from tests.support.runs import TenantDatabase, result_of
from tests.support.waiting import wait_until

TIMES = LeaseTimes(lease_s=60, renew_s=0.05, orphan_s=60, cancel_s=60)


def wait_refused() -> None:
    """Until a renewal was refused: the thread that renews ends then."""
    wait_until(
        lambda: "lease" not in [thread.name for thread in threading.enumerate()],
        what="a renewal to be refused",
    )


def test_a_result_whose_reply_was_lost_is_committed(database: Database) -> None:
    tenant = TenantDatabase.new(database)
    claim = tenant.held()
    calls = 0

    def commit() -> None:
        nonlocal calls
        calls += 1
        tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
        if calls == 1:
            wait_refused()
            raise LedgerDownError("the reply was lost")

    with Lease(tenant.ledger, claim.run_id, claim.fence, TIMES, Budget(None)) as lease:
        lease.until_ended(commit, doing="commit_result")
        lease.check()

    assert calls == 2
    assert tenant.run(claim.run_id).status == "succeeded"


def test_a_result_that_came_too_late_is_refused(database: Database) -> None:
    """It was not stored, and renewals are refused, because the run was handed back meanwhile."""
    tenant = TenantDatabase.new(database)
    claim = tenant.held()
    calls = 0

    def commit() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            tenant.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
            wait_refused()
            raise LedgerDownError("the call was lost")
        tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)

    with Lease(tenant.ledger, claim.run_id, claim.fence, TIMES, Budget(None)) as lease:
        with pytest.raises(GivenUpError):
            lease.until_ended(commit, doing="commit_result")
        assert lease.is_given_up

    assert calls == 2
    assert tenant.run(claim.run_id).status == "queued"


def test_a_result_of_a_former_holder_is_refused(database: Database) -> None:
    tenant = TenantDatabase.new(database)
    claim = tenant.held()

    with Lease(tenant.ledger, claim.run_id, claim.fence, TIMES, Budget(None)) as lease:
        tenant.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
        wait_refused()
        with pytest.raises(GivenUpError):
            lease.until_ended(
                lambda: tenant.ledger.commit_result(
                    claim.run_id, claim.fence, result_of(claim), step=100
                ),
                doing="commit_result",
            )
