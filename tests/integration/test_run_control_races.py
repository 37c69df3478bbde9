"""A pause and another writer of the same run at once, on a real PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from services.domain.errors import IllegalTransitionError
from services.domain.ledger import Claim, Outcome
from services.store import run_control
from services.store.database import Connection
from tests.support.runs import LEASE, TenantDatabase, result_of


def claimed(tenant_db: TenantDatabase, conn: Connection) -> tuple[str, Callable[[], Any]]:
    run_id = tenant_db.claimable().run_id
    worker_id = tenant_db.worker()
    return run_id, lambda: tenant_db.ledger.claim(run_id, worker_id=worker_id, lease=LEASE)


def holder_of(call: Callable[[TenantDatabase, Claim], Any]) -> Callable[..., Any]:
    def held(tenant_db: TenantDatabase, conn: Connection) -> tuple[str, Callable[[], Any]]:
        claim = tenant_db.held()
        return claim.run_id, lambda: call(tenant_db, claim)

    return held


def swept(tenant_db: TenantDatabase, conn: Connection) -> tuple[str, Callable[[], Any]]:
    claim = tenant_db.held()
    tenant_db.let_lease_run_out(claim.run_id)
    return claim.run_id, lambda: tenant_db.sweep(max_attempts=3)


RACES: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "claim": (claimed, {"paused", "pausing"}),
    "hand back": (
        holder_of(lambda t, c: t.ledger.hand_back(c.run_id, c.fence, Outcome.STOPPED, None)),
        {"paused"},
    ),
    "result": (
        holder_of(lambda t, c: t.ledger.commit_result(c.run_id, c.fence, result_of(c), step=100)),
        {"succeeded"},
    ),
    "sweep": (swept, {"paused", "pausing"}),
}


@pytest.mark.parametrize("race", RACES)
def test_a_pause_and_another_writer_at_once(tenant_db: TenantDatabase, race: str) -> None:
    """Whoever is first, the run ends in one of these, and its attempts agree with it."""
    prepare, ends = RACES[race]
    for _ in range(5):
        with tenant_db.database.transaction() as conn:
            run_id, call = prepare(tenant_db, conn)
        start = Barrier(2)

        def act(run_id: str = run_id, start: Barrier = start) -> None:
            start.wait()
            try:
                with tenant_db.database.transaction() as conn:
                    run_control.pause(conn, tenant_db.tenant_id, run_id)
            except IllegalTransitionError:
                assert tenant_db.run(run_id).status == "succeeded"

        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            start.wait()
            call()
            acting.result()
        run = tenant_db.run(run_id)
        assert run.status in ends
        attempts = tenant_db.attempts(run_id)
        assert sum(attempt.outcome is None for attempt in attempts) == run.is_held
        assert run.is_held == (run.status == "pausing")
        tenant_db.due_now(run_id)
