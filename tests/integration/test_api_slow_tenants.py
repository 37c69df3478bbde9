"""What a tenant holds while it is slow: few connections to the database, and no place for work."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from services.store import tenants
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.raw_http import connect, read
from tests.support.service import database_of, new_tenant
from tests.support.tenant import Tenant
from tests.support.waiting import wait_until

WHOLE_BODY_S = 8.0
LONG_LIST = json.dumps(
    {
        "name": "long",
        "files": [
            {"path": f"{n:05d}.jpg", "size_bytes": 1, "sha256": f"{n:064x}"} for n in range(4000)
        ],
    }
).encode()


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_API_PROCESSES="1", REVERIE_HTTP_WHOLE_BODY_S=str(WHOLE_BODY_S))
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def grace(fleet: Fleet) -> Tenant:
    tenant = new_tenant(fleet, "grace")
    tenant.get("/v1/runs")  # its key is known from here on
    return tenant


def test_a_tenant_with_many_keys_leaves_connections_to_others(fleet: Fleet, grace: Tenant) -> None:
    with database_of(fleet) as database, database.transaction() as conn:
        ada = tenants.create_tenant(conn, "ada")
        keys = [new_api_key(conn, ada) for _ in range(8)]

    def ask(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{fleet.url}/v1/runs", headers=headers, timeout=30).status_code

    assert {ask(key) for key in keys} == {200}
    url = fleet.env["REVERIE_DATABASE_URL"]
    with (
        psycopg.connect(url) as holder,
        psycopg.connect(url, autocommit=True) as watcher,
        ThreadPoolExecutor(16) as pool,
    ):
        holder.execute("SELECT FROM rate_buckets WHERE tenant_id = %s FOR UPDATE", (ada,))
        asked = [pool.submit(ask, key) for key in keys * 2]
        wait_until(lambda: num_waiting(watcher) == 2, deadline_s=10, what="two lookups to wait")
        started_s = time.monotonic()
        assert grace.http.get("/v1/runs").status_code == 200
        assert time.monotonic() - started_s < 2
        assert num_waiting(watcher) == 2  # all the time, since the bucket is still locked
        holder.rollback()
        assert {each.result() for each in asked} == {200}


def num_waiting(conn: psycopg.Connection[tuple[int]]) -> int:
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_lists_that_are_sent_slowly_take_no_place_from_others_and_end(
    fleet: Fleet, grace: Tenant
) -> None:
    slow_tenants = [new_tenant(fleet, f"slow {n}") for n in range(4)]
    drippers = [connect(fleet.port) for _ in slow_tenants for _ in range(3)]
    for number, each in enumerate(drippers):
        key = slow_tenants[number % len(slow_tenants)].http.headers["Authorization"]
        head = (
            "POST /v1/datasets HTTP/1.1\r\nHost: reverie\r\nContent-Type: application/json\r\n"
            f"Authorization: {key}\r\nContent-Length: {len(LONG_LIST)}\r\n\r\n"
        )
        each.sendall(head.encode() + LONG_LIST[:100_000])
    started_s = time.monotonic()
    body = {**json.loads(LONG_LIST), "name": "of another"}
    assert grace.http.post("/v1/datasets", json=body).status_code == 201
    assert time.monotonic() - started_s < WHOLE_BODY_S

    for each in drippers:
        with each:
            answer = read(each, within_s=2 * WHOLE_BODY_S)
        assert (answer.statuses, answer.is_closed) == ([408], True)
        assert b'"code":"request_timeout"' in answer.raw
    assert slow_tenants[0].http.get("/v1/runs").status_code == 200
