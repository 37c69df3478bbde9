"""F14: Redis is full, frozen, or refuses the password. Runs are accepted, and health says so."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.service import new_tenant, push_photos, run_request
from tests.support.tenant import Tenant
from tests.support.waiting import wait_until


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet]) -> Iterator[Fleet]:
    fleet = fleet_of()
    fleet.start_api()
    yield fleet
    fleet.stop()


@pytest.fixture
def tenant(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


def degraded(fleet: Fleet) -> list[str]:
    answer = httpx.get(f"{fleet.url}/readyz", timeout=5)
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == ("degraded" if body["degraded"] else "ok")
    return list(body["degraded"])


def wait_degraded(fleet: Fleet, *parts: str) -> None:
    wait_until(lambda: degraded(fleet) == list(parts), deadline_s=40, what=f"health: {parts}")


def submit(tenant: Tenant) -> None:
    """201, as with a healthy Redis."""
    tenant.submit(run_request(push_photos(tenant)))


def test_a_full_redis(fleet: Fleet, tenant: Tenant, shared_redis_server: RedisServer) -> None:
    assert degraded(fleet) == ["dispatcher", "broker"]  # nobody has reported yet
    fleet.start("dispatcher")
    wait_degraded(fleet)
    with shared_redis_server.client() as client:
        client.config_set("maxmemory", "1")

        submit(tenant)
        wait_degraded(fleet, "broker")

        client.config_set("maxmemory", "0")
    wait_degraded(fleet)


@pytest.mark.deep
def test_a_frozen_redis(fleet: Fleet, tenant: Tenant, shared_redis_server: RedisServer) -> None:
    fleet.start("dispatcher")
    wait_degraded(fleet)
    shared_redis_server.freeze()
    try:
        submit(tenant)
        wait_degraded(fleet, "broker")
    finally:
        shared_redis_server.thaw()
    wait_degraded(fleet)


@pytest.mark.deep
def test_a_redis_that_refuses_the_password(
    fleet: Fleet, tenant: Tenant, shared_redis_server: RedisServer
) -> None:
    with shared_redis_server.client() as client:
        client.config_set("requirepass", "another")  # this connection stays
        try:
            fleet.start("dispatcher")

            submit(tenant)

            wait_degraded(fleet, "broker")
        finally:
            client.config_set("requirepass", "")
    wait_degraded(fleet)


@pytest.mark.deep
def test_a_dispatcher_that_is_gone(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    wait_degraded(fleet)
    fleet.processes["dispatcher"].kill()

    wait_degraded(fleet, "dispatcher", "broker")
