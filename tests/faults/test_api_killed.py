"""F10: the API is killed after the commit of a new run, before its answer and before any ring."""

import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.queue.app import CONTROL_QUEUE
from services.store.ledger import PostgresLedger
from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.service import database_of, new_tenant, push_unread, run_request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet]) -> Iterator[Fleet]:
    fleet = fleet_of()
    fleet.start_api()
    yield fleet
    fleet.stop()


def test_the_client_repeats_its_request_and_the_run_is_rung_for(
    fleet: Fleet, shared_redis_server: RedisServer
) -> None:
    tenant = new_tenant(fleet, "ada")
    request = run_request(push_unread(tenant))
    fleet.processes["api"].terminate()
    fleet.wait("api")
    fault = {"FAULT_AT": "request.stored=kill", "FAULT_ONCE": str(fleet.home / "killed")}
    fleet.start("api", **fault)
    fleet.wait_ready()
    key = {"Idempotency-Key": str(uuid.uuid4())}

    with pytest.raises(httpx.TransportError):
        tenant.http.post("/v1/runs", json=request, headers=key)

    fleet.wait_ready()
    again = tenant.http.post("/v1/runs", json=request, headers=key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert [run["id"] for run in tenant.get("/v1/runs")["data"]] == [again.json()["id"]]
    # No dispatcher listened when the run was stored: it is found by its row.
    builder = Worker(worker_id=new_id("wrk"), kind="cache_builder", gpu_class="cpu", version="0")
    with database_of(fleet) as database:
        PostgresLedger(database).register(builder, draining=False, run_id=None)
        fleet.start("dispatcher", REVERIE_HEARTBEAT_S="60")
        with shared_redis_server.client() as client:
            wait_until(lambda: client.llen(CONTROL_QUEUE), what=lambda: fleet.tail("dispatcher"))
