"""What operators do over HTTP: tenants, their quotas and keys, prices, workers."""

from collections.abc import Iterator

import httpx
import pytest

from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.store import operator_keys, workers
from services.store.database import Database
from tests.support.api_keys import KEY_PEPPER
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant
from tests.support.tenant import Tenant


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def operator(fleet: Fleet, database: Database) -> Tenant:
    with database.transaction() as conn:
        secret = operator_keys.create(conn, KEY_PEPPER, name="operator")[1]
    return Tenant(fleet.url, secret)


def test_a_tenant_from_its_creation_to_its_first_run(fleet: Fleet, operator: Tenant) -> None:
    request = {"name": "ada", "weight": 2.5, "quotas": {"queued_runs": 0, "gpu_hours": 7.5}}
    made = operator.post("/v1/admin/tenants", request)
    quotas = {each["id"]: each for each in made["quotas"]}
    assert (made["name"], made["weight"]) == ("ada", 2.5)
    assert (quotas["queued_runs"]["limit"], quotas["queued_runs"]["is_default"]) == (0, False)
    assert quotas["uploads"]["is_default"]

    keys = made["links"]["api_keys"]
    (owner,) = operator.get(made["links"]["members"])["data"]
    assert (owner["name"], owner["role"]) == ("ada", "owner")
    key = operator.post(keys, {"name": "first"})
    assert key["member_id"] == owner["id"]
    ada = Tenant(fleet.url, key["secret"])
    assert ada.get("/v1/members")["data"] == [owner]
    refused = ada.http.post("/v1/datasets", json={"name": "x"})
    assert refused.status_code == 422

    changes = {"quotas": {"queued_runs": None, "uploads": 3}, "name": "Ada"}
    changed = operator.http.patch(made["links"]["self"], json=changes).json()
    quotas = {each["id"]: each for each in changed["quotas"]}
    assert (changed["name"], changed["weight"]) == ("Ada", 2.5)
    assert quotas["queued_runs"]["is_default"]
    assert (quotas["uploads"]["limit"], quotas["gpu_hours"]["limit"]) == (3, 7.5)
    seen = {each["id"]: each["limit"] for each in ada.get("/v1/quotas")["data"]}
    assert seen == {name: each["limit"] for name, each in quotas.items()}

    assert operator.get(key["links"]["self"])["name"] == "first"
    for _ in range(2):
        assert operator.http.delete(key["links"]["self"]).status_code == 204
    assert ada.http.get("/v1/runs").status_code == 401
    assert operator.http.get(key["links"]["self"]).status_code == 404
    assert operator.get(keys)["data"] == []


def test_a_key_of_another_tenant_is_not_found_below_this_one(
    operator: Tenant, fleet: Fleet
) -> None:
    ada = operator.post("/v1/admin/tenants", {"name": "ada"})
    grace = operator.post("/v1/admin/tenants", {"name": "grace"})
    key = operator.post(ada["links"]["api_keys"], {"name": "first"})
    elsewhere = f"{grace['links']['api_keys']}/{key['id']}"
    assert operator.http.get(elsewhere).status_code == 404
    assert operator.http.delete(elsewhere).status_code == 404
    (member,) = operator.get(ada["links"]["members"])["data"]
    body = {"name": "x", "member_id": member["id"]}
    assert operator.http.post(grace["links"]["api_keys"], json=body).status_code == 404
    assert Tenant(fleet.url, key["secret"]).get("/v1/runs")["data"] == []


def test_one_idempotency_key_makes_one_tenant(operator: Tenant) -> None:
    def create(name: str) -> httpx.Response:
        headers = {"Idempotency-Key": "once"}
        return operator.http.post("/v1/admin/tenants", json={"name": name}, headers=headers)

    first, again, other = create("lin"), create("lin"), create("mary")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.json()["links"]["self"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    unkeyed = operator.http.post("/v1/admin/tenants", json={"name": "lin"})
    assert unkeyed.headers["Idempotency-Key-Missing"] == "true"
    assert unkeyed.json()["id"] != first.json()["id"]
    listed = operator.get("/v1/admin/tenants?limit=100")["data"]
    assert [each["name"] for each in listed].count("lin") == 2


def test_prices_and_workers(operator: Tenant, database: Database) -> None:
    worker = Worker(worker_id=new_id("wrk"), kind="trainer", gpu_class="h200", version="1")
    with database.transaction() as conn:
        workers.register(conn, worker, draining=True, run_id=None)
    price = {"price_micros_per_hour": 3_500_000, "currency": "EUR"}
    answer = operator.http.put("/v1/admin/gpu-classes/h200", json=price)
    unknown = {"memory_bytes": None, "capability": None}
    assert answer.json() == {"id": "h200", "object": "gpu_class", **price, **unknown}
    hardware = {"memory_bytes": 141 * 2**30, "capability": "9.0"}
    for sent in ({**price, **hardware}, price):  # what is not given stays
        answer = operator.http.put("/v1/admin/gpu-classes/h200", json=sent)
        assert answer.json() == {"id": "h200", "object": "gpu_class", **price, **hardware}
    assert operator.get("/v1/admin/gpu-classes")["data"] == [answer.json()]
    for wrong in ({"memory_bytes": 0}, {"capability": "sm_90"}):
        sent = {**price, **wrong}
        assert operator.http.put("/v1/admin/gpu-classes/h200", json=sent).status_code == 422
    for name in ("-", "a b", "x" * 65):
        assert operator.http.put(f"/v1/admin/gpu-classes/{name}", json=price).status_code == 422
    (shown,) = operator.get("/v1/admin/workers")["data"]
    assert (shown["id"], shown["draining"], shown["drain_reason"]) == (worker.worker_id, True, None)


def test_an_operator_has_a_request_rate_of_its_own(operator: Tenant, fleet: Fleet) -> None:
    answer = operator.http.get("/v1/admin/tenants")
    assert answer.headers["RateLimit-Policy"] == '"other";q=30000;w=60'
    assert new_tenant(fleet, "ada").http.get("/v1/runs").status_code == 200
