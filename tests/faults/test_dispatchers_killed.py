"""F11: a dispatcher is killed in the middle of its work, and two go on at once."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.domain.ledger import Claim
from services.queue.app import trainer_queue
from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

TRAIN = trainer_queue("cpu")


@pytest.fixture
def fleet(tmp_path: Path, database_url: str, redis_server: RedisServer) -> Iterator[Fleet]:
    fleet = Fleet(
        tmp_path,
        {
            "REVERIE_DATABASE_URL": database_url,
            "REVERIE_BROKER_URL": redis_server.url,
            "REVERIE_LEASE_S": "1.5",  # a dispatcher trusts leases after so long without an outage
            "REVERIE_HEARTBEAT_S": "60",  # the workers of these tests send one only
        },
    )
    yield fleet
    fleet.stop()


def killed_at(fleet: Fleet, place: str) -> None:
    """A dispatcher that dies there."""
    fleet.start("dispatcher-killed", FAULT_AT=f"{place}=kill")
    assert fleet.wait("dispatcher-killed") == -signal.SIGKILL, fleet.tail("dispatcher-killed")


def start_two(fleet: Fleet) -> None:
    for name in ("dispatcher-1", "dispatcher-2"):
        fleet.start(name)


def test_killed_in_a_sweep(tenant_db: TenantDatabase, fleet: Fleet) -> None:
    claims: list[Claim] = [tenant_db.held() for _ in range(3)]
    for claim in claims:
        tenant_db.let_lease_run_out(claim.run_id)

    killed_at(fleet, "sweep.closed@2")  # before its commit

    first, second, third = (tenant_db.run(claim.run_id) for claim in claims)
    assert (first.is_held, second.is_held, third.is_held) == (False, True, True)
    start_two(fleet)
    for claim in claims:
        wait_until(lambda: not tenant_db.run(claim.run_id).is_held, what="the sweep")  # noqa: B023
    for claim in claims:
        run = tenant_db.run(claim.run_id)
        assert (run.status, run.fence, run.infra_failures) == ("queued", 1, 1)
        assert [attempt.outcome for attempt in tenant_db.attempts(claim.run_id)] == ["lost"]
        types = tenant_db.event_types(claim.run_id)
        assert types[types.index("run.started") + 1 :] == ["run.queued"]
    swept = sum(fleet.tail(f"dispatcher-{n}", 1 << 20).count("attempt_lost") for n in (1, 2))
    assert swept == 2


def test_killed_between_an_offer_and_its_ring(
    tenant_db: TenantDatabase, fleet: Fleet, queues: Callable[[str], int]
) -> None:
    run_id = tenant_db.claimable().run_id
    tenant_db.worker()

    killed_at(fleet, "offers.taken")

    assert tenant_db.run(run_id).offered_until is not None
    assert queues(TRAIN) == 0
    start_two(fleet)
    wait_until(lambda: queues(TRAIN), what="the ring, once the offer has run out")
    assert queues(TRAIN) == 1
