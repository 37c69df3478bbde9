"""Runs by status, metadata and time; an answer that waits for a change; what a tenant sees."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.api.run_reading.waiting import MAX_WAIT_S, asked_wait_s
from services.client.client import Client
from services.store import gpu_classes, run_control
from services.store.database import Database
from services.store.run_rows import Run
from tests.support.api_keys import new_api_key
from tests.support.command_line import environment, reverie
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase
from tests.support.service import database_of
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(
        REVERIE_SINGLE_TENANT="false", REVERIE_STREAMS_PER_TENANT="2", REVERIE_API_PROCESSES="1"
    )
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def tenant_db(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


@pytest.fixture(scope="module")
def key(tenant_db: TenantDatabase) -> str:
    with tenant_db.database.transaction() as conn:
        return new_api_key(conn, tenant_db.tenant_id)


@pytest.fixture(scope="module")
def client(fleet: Fleet, key: str) -> Iterator[Client]:
    with Client(fleet.url, key) as client:
        yield client


@pytest.fixture(scope="module")
def http(fleet: Fleet, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=fleet.url, headers=headers, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def three(tenant_db: TenantDatabase) -> list[Run]:
    """A run of the blue team, another one that is canceled, and one of the red team."""
    blue = [tenant_db.queued(metadata={"team": "blue", "key]": value}) for value in ("1", "a=b&c")]
    cancel(tenant_db, blue[1].run_id)
    return [*blue, tenant_db.queued(metadata={"team": "red"})]


def cancel(tenant_db: TenantDatabase, run_id: str) -> None:
    with tenant_db.database.transaction() as conn:
        run_control.cancel(conn, tenant_db.tenant_id, run_id)


def test_runs_are_found_by_status_metadata_and_time(client: Client, three: list[Run]) -> None:
    first, second, third = (run.run_id for run in three)
    at = [run.created_at for run in three]
    tick = timedelta(microseconds=1)
    wanted: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [third, second, first]),
        ({"status": "canceled"}, [second]),
        ({"status": "running"}, []),
        ({"metadata": {"team": "blue"}}, [second, first]),
        ({"metadata": {"team": "blue", "key]": "a=b&c"}}, [second]),
        ({"metadata": {"team": "green"}}, []),
        ({"metadata": {"team": "blue"}, "status": "queued"}, [first]),
        ({"created_after": at[1]}, [third]),
        ({"created_after": at[1] - tick}, [third, second]),
        ({"created_before": at[1]}, [first]),
        ({"created_after": at[0], "created_before": at[2]}, [second]),
        ({"batch_id": "bat_" + "0" * 32}, []),
    ]
    for query, found in wanted:
        sent = {k: v.isoformat() if k.startswith("created") else v for k, v in query.items()}
        assert [run["id"] for run in client.list_runs(**sent).data] == found, query


def test_the_link_to_the_next_page_has_the_filters(http: httpx.Client, three: list[Run]) -> None:
    page = http.get("/v1/runs", params={"metadata[team]": "blue", "limit": 1})
    following = http.get(page.links["next"]["url"])
    found = [answer.json()["data"][0]["id"] for answer in (page, following)]
    assert found == [three[1].run_id, three[0].run_id]
    assert not following.json()["has_more"]


def test_a_filter_that_cannot_be_meant_is_refused(http: httpx.Client) -> None:
    for query, pointer, code in (
        ("status=done", "query:status", None),
        ("created_after=yesterday", "query:created_after", None),
        ("created_before=2030-01-31", "query:created_before", None),
        ("metadata=team", "query:metadata", "unknown_parameter"),
        ("metadata[team]=a&metadata[team]=b", "query:metadata[team]", "repeated"),
        ("metadata[]=a", "query:metadata", "bad_value"),
        ("metadata[team]=%00", "query:metadata", "bad_value"),
        (f"metadata[{'k' * 65}]=a", "query:metadata", "bad_value"),
        ("&".join(f"metadata[{n}]=a" for n in range(17)), "query:metadata", "bad_value"),
        ("status[a]=queued", "query:status[a]", "unknown_parameter"),
    ):
        answer = http.get(f"/v1/runs?{query}")
        assert answer.status_code == 422, (query, answer.text)
        error = answer.json()["errors"][0]
        assert error["pointer"] == pointer, query
        assert code in (None, error["code"]), query


def test_how_long_a_client_wants_to_wait() -> None:
    for prefer, wait_s in (
        (None, 0),
        ("respond-async", 0),
        ("wait=10", 10),
        ("Wait = 10; x, respond-async", 10),
        ("respond-async, wait=600", MAX_WAIT_S),
        ("nowait=5", 0),
        ("wait=-1", 0),
        ("wait=soon", 0),
    ):
        assert asked_wait_s(prefer) == wait_s, prefer


def test_an_answer_waits_until_the_run_changes(
    client: Client, http: httpx.Client, tenant_db: TenantDatabase
) -> None:
    run_id = tenant_db.queued().run_id
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(client.get_run(run_id, wait_s=30)))
    waiting.start()
    started_s = time.monotonic()
    answer = http.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=1")
    assert time.monotonic() - started_s >= 1
    assert waiting.is_alive()
    cancel(tenant_db, run_id)
    waiting.join(timeout=10)
    assert found[0]["status"] == "canceled"
    # A run that is over does not change any more.
    assert client.get_run(run_id, wait_s=30)["status"] == "canceled"
    assert time.monotonic() - started_s < 20


def test_what_changed_between_two_requests_is_not_missed(
    http: httpx.Client, tenant_db: TenantDatabase
) -> None:
    run_id = tenant_db.queued().run_id
    path = f"/v1/runs/{run_id}"
    etag = http.get(path).headers["ETag"]
    waited = http.get(path, headers={"Prefer": "wait=1", "If-None-Match": etag})
    unknown = f'"{"9" * 5000}-x"'
    other = http.get(path, headers={"Prefer": "wait=1", "If-None-Match": unknown})
    assert other.status_code == 200
    assert waited.status_code == 304
    with tenant_db.database.transaction() as conn:
        run_control.pause(conn, tenant_db.tenant_id, run_id)
    started_s = time.monotonic()
    answer = http.get(path, headers={"Prefer": "wait=30", "If-None-Match": etag})
    assert (answer.status_code, answer.json()["status"]) == (200, "paused")
    assert time.monotonic() - started_s < 10


def test_requests_that_wait_hold_up_no_others_and_are_counted(
    fleet: Fleet, key: str, http: httpx.Client, tenant_db: TenantDatabase
) -> None:
    run_id = tenant_db.queued().run_id
    statuses: list[int] = []

    def wait() -> None:
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=30"}

        def ask() -> int | None:
            answer = httpx.get(f"{fleet.url}/v1/runs/{run_id}", headers=headers, timeout=60)
            # Where the request below came first, this one was one too many.
            return None if answer.status_code == 429 else answer.status_code

        statuses.append(wait_until(ask, what="a request that may wait"))

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()

    def is_full() -> bool:
        answer = http.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=1"})
        return answer.status_code == 429 and answer.json()["code"] == "rate_limited"

    wait_until(is_full, what="two requests that wait")
    assert http.get(f"/v1/runs/{run_id}").status_code == 200
    cancel(tenant_db, run_id)
    for thread in threads:
        thread.join(timeout=10)
    assert statuses == [200, 200]


def test_a_tenant_sees_itself_and_the_price_list(
    fleet: Fleet, key: str, client: Client, tenant_db: TenantDatabase, three: list[Run]
) -> None:
    with tenant_db.database.transaction() as conn:
        gpu_classes.set_price(conn, "h200", price_micros_per_hour=2_500_000, currency="EUR")
        gpu_classes.set_hardware(conn, "h200", memory_bytes=150 << 30, capability="9.0")
        gpu_classes.set_price(conn, "spare", price_micros_per_hour=0, currency="EUR")
    me = client.get_own_tenant()
    assert (me["id"], me["name"]) == (tenant_db.tenant_id, "ada")
    assert me["quotas"] == client.list_quotas().data
    types = {each["id"]: each for each in client.list_gpu_types().data}
    assert types["cpu"]["price_micros_per_hour"] is None
    assert (types["spare"]["price_micros_per_hour"], types["spare"]["currency"]) == (0, "EUR")
    assert types["h200"] == {
        "id": "h200",
        "object": "gpu_type",
        "memory_bytes": 150 << 30,
        "capability": "9.0",
        "price_micros_per_hour": 2_500_000,
        "currency": "EUR",
    }

    def shown_by(*args: str) -> str:
        done = reverie(args, environment(fleet.url, key))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(shown_by("tenant", "show", "--json")) == me
    shown = shown_by("gpu-types")
    assert "150.0 GiB" in shown
    assert "2.50 EUR" in shown
    blue = json.loads(shown_by("runs", "list", "--metadata", "team=blue", "--json"))["data"]
    assert [run["id"] for run in blue] == [three[1].run_id, three[0].run_id]
