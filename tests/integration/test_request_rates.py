"""Request rates over real HTTP and two replicas of the API, and what clients make of a 429."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import httpx
import psycopg
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.key_guesses import KeyGuesses
from services.client.client import Client
from services.settings.env import Settings
from services.store import quotas
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase
from tests.support.service import database_of, new_tenant
from tests.support.tenant import Tenant
from tests.support.waiting import wait_until

NEW_DATASET = {
    "name": "photos",
    "files": [{"path": "a.jpg", "size_bytes": 1, "sha256": "a" * 64}],
}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def replicas(fleet_of: Callable[..., Fleet]) -> tuple[Fleet, Fleet]:
    """Two APIs of one process each, over the same database."""
    env = {"REVERIE_API_PROCESSES": "1", "REVERIE_STREAMS_PER_TENANT": "2"}
    first = fleet_of(**env)
    second = fleet_of(**env, REVERIE_DATABASE_URL=first.env["REVERIE_DATABASE_URL"])
    for fleet in (first, second):
        fleet.start("api")
    for fleet in (first, second):
        fleet.wait_ready()
    return first, second


@pytest.fixture
def tenant_db(replicas: tuple[Fleet, Fleet]) -> Iterator[TenantDatabase]:
    with database_of(replicas[0]) as database:
        yield TenantDatabase.new(database)


@pytest.fixture
def api_key(tenant_db: TenantDatabase) -> str:
    with tenant_db.database.transaction() as conn:
        return new_api_key(conn, tenant_db.tenant_id)


@pytest.fixture
def both(replicas: tuple[Fleet, Fleet], api_key: str) -> Iterator[tuple[Tenant, Tenant]]:
    """The same tenant at each replica."""
    first, second = (Tenant(fleet.url, api_key) for fleet in replicas)
    yield first, second
    first.http.close()
    second.http.close()


def limit(tenant_db: TenantDatabase, requests_per_minute: int) -> None:
    with tenant_db.database.transaction() as conn:
        changes = {"requests_per_minute": requests_per_minute}
        quotas.change(conn, tenant_db.tenant_id, changes)


def begin_bucket(tenant_db: TenantDatabase, policy: str, tokens: int) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "INSERT INTO rate_buckets (tenant_id, policy, tokens) VALUES (%s, %s, %s)",
            (tenant_db.tenant_id, policy, tokens),
        )


def test_a_limit_holds_over_two_replicas(
    replicas: tuple[Fleet, Fleet], both: tuple[Tenant, Tenant], tenant_db: TenantDatabase
) -> None:
    limit(tenant_db, 20)
    started_s = time.monotonic()

    def create(number: int) -> httpx.Response:
        return both[number % 2].http.post("/v1/datasets", json=NEW_DATASET)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(create, range(60)))
    filled = math.ceil((time.monotonic() - started_s) * 20 / 60)
    created = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code == 429]

    assert len(created) + len(refused) == 60
    assert 20 <= len(created) <= 20 + filled
    problem = refused[-1].json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert problem["detail"].startswith("The tenant may send 20 requests a minute of the kind crea")
    assert 1 <= int(refused[-1].headers["Retry-After"]) <= 3
    for answer in answers:
        assert answer.headers["RateLimit-Policy"] == '"create";q=20;w=60'
    assert {a.headers["RateLimit"].split(";")[1] for a in refused} == {"r=0"}
    assert len(datasets_of(both[0])) == len(created)

    # Other requests of this tenant, and other tenants, have buckets of their own.
    read = both[0].http.get("/v1/runs")
    assert (read.status_code, read.headers["RateLimit-Policy"]) == (200, '"other";q=100;w=60')
    assert new_tenant(replicas[0], "bob").post("/v1/datasets", NEW_DATASET)["status"]


def datasets_of(tenant: Tenant) -> list[object]:
    return list(tenant.get("/v1/datasets?limit=100")["data"])


def test_errors_show_the_rate_too(both: tuple[Tenant, Tenant]) -> None:
    answers = [both[0].http.get("/v1/runs/run_0"), both[0].http.post("/v1/runs", json={})]
    assert [(a.status_code, a.headers["RateLimit"][:9]) for a in answers] == [
        (404, '"other";r'),
        (422, '"create";'),
    ]


def test_the_client_waits_as_long_as_it_is_told(
    replicas: tuple[Fleet, Fleet], tenant_db: TenantDatabase, api_key: str
) -> None:
    limit(tenant_db, 120)
    begin_bucket(tenant_db, "create", -3)  # there is one again after two seconds
    answers: list[tuple[int, str | None]] = []
    with Client(replicas[0].url, api_key) as client:
        client._transport.http.event_hooks["response"] = [
            lambda answer: answers.append((answer.status_code, answer.headers.get("Retry-After")))
        ]
        dataset = client.create_dataset("a", NEW_DATASET["files"])  # type: ignore[arg-type]

    assert dataset["status"] == "uploading"
    (refused, wait_s), created = answers
    assert (refused, created) == (429, (201, None))
    assert wait_s in ("1", "2")


def test_a_quota_of_no_requests_refuses_all(
    both: tuple[Tenant, Tenant], tenant_db: TenantDatabase
) -> None:
    limit(tenant_db, 0)
    answer = both[0].http.get("/v1/runs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    assert answer.headers["RateLimit"] == '"other";r=0;t=60'


def test_without_buckets_nothing_is_created_and_the_rest_is_served(
    both: tuple[Tenant, Tenant], tenant_db: TenantDatabase
) -> None:
    url = tenant_db.database._url
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("ALTER TABLE rate_buckets RENAME TO lost")
        try:
            created = both[0].http.post("/v1/datasets", json=NEW_DATASET)
            read = both[0].http.get("/v1/runs")
            unknown = httpx.get(
                f"{both[0].http.base_url}/v1/runs",
                headers={"Authorization": "Bearer rv_0123456789abcdef"},
            )
        finally:
            conn.execute("ALTER TABLE lost RENAME TO rate_buckets")

    assert (created.status_code, created.json()["code"]) == (503, "database_unavailable")
    assert read.status_code == 200
    assert unknown.status_code == 401


def test_a_tenant_may_open_as_many_streams_as_the_setting_says(
    both: tuple[Tenant, Tenant], replicas: tuple[Fleet, Fleet], tenant_db: TenantDatabase
) -> None:
    path = f"/v1/runs/{tenant_db.queued().run_id}/events"
    tenant = both[0]
    with ExitStack() as stack:
        opened = [
            stack.enter_context(tenant.http.stream("GET", path, headers=STREAM)) for _ in range(2)
        ]
        refused = tenant.http.get(path, headers=STREAM)
        listed = tenant.http.get(path)
        elsewhere = stack.enter_context(both[1].http.stream("GET", path, headers=STREAM))
        statuses = [each.status_code for each in (*opened, listed, elsewhere)]
    assert statuses == [200] * 4
    assert opened[0].headers["RateLimit-Policy"].startswith('"stream";')
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"].startswith(
        "The tenant has 2 event streams and waiting requests open. Close one"
    )

    def opens_again() -> bool:
        with tenant.http.stream("GET", path, headers=STREAM) as answer:
            return answer.status_code == 200

    wait_until(opens_again, deadline_s=10, what="the closed streams to be forgotten")


def test_a_flood_of_unknown_keys_does_not_reach_the_database(
    replicas: tuple[Fleet, Fleet], tenant_db: TenantDatabase, api_key: str
) -> None:
    def get(key: str) -> httpx.Response:
        return http.get("/v1/runs", headers={"Authorization": f"Bearer {key}"})

    app = create_app(Settings.from_env(replicas[0].env))
    # As time passes, more guesses are allowed; here it stands still.
    app.state.service = replace(app.state.service, key_guesses=KeyGuesses(now_s=lambda: 0.0))
    with TestClient(app) as http:
        valid = get(api_key)
        guesses = [get(f"rv_guess_{number:016}") for number in range(70)]
        with psycopg.connect(tenant_db.database._url, autocommit=True) as conn:
            conn.execute("ALTER TABLE api_keys RENAME TO away")
            try:
                not_asked = get(f"rv_guess_{0:016}")
            finally:
                conn.execute("ALTER TABLE away RENAME TO api_keys")
        still_valid = get(api_key)

    statuses = [answer.status_code for answer in guesses]
    assert statuses == [401] * 60 + [429] * 10
    assert not_asked.status_code == 429
    assert not_asked.json()["detail"].startswith("This address has sent too many unknown API keys.")
    assert int(not_asked.headers["Retry-After"]) >= 1
    assert "RateLimit" not in not_asked.headers
    assert (valid.status_code, still_valid.status_code) == (200, 200)
