"""Every route of the OpenAPI document: who is let in, and that another's object is no object."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from services.store import publications, tenants
from services.store.database import Database
from tests.support.fleet import Fleet
from tests.support.service import new_tenant, run_request
from tests.support.tenant import Tenant
from tests.support.waiting import wait_until

OPEN = {("get", "/healthz"), ("get", "/readyz")}
LISTS = {("get", "/v1/datasets"), ("get", "/v1/runs"), ("get", "/v1/publications")}
"""Routes that name no object: they show the caller's own."""
CREATING = {("post", "/v1/datasets")}
"""Routes that name no object, and make one."""

Ids = dict[str, str]
NOBODYS: Ids = {
    "run_id": "run_" + "0" * 32,
    "dataset_id": "ds_" + "0" * 32,
    "publication_id": "pub_" + "0" * 32,
}


def body_of(method: str, path: str, ids: Ids) -> Any:
    """A body that names an object, for the routes that take one in it."""
    match method, path:
        case "post", "/v1/uploads":
            return {"dataset_id": ids["dataset_id"]}
        case "post", "/v1/uploads/parts":
            return {"dataset_id": ids["dataset_id"], "path": "a.jpg", "sha256": ["0" * 64]}
        case "post", "/v1/runs":
            dataset = ids["dataset_id"]
            return run_request({"photos": dataset, "held-out": dataset})
        case "post", "/v1/publications":
            return {"run_id": ids["run_id"], "target": {"kind": "folder"}}
        case "post", _ if "{" in path:
            return {}
    return None


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false")
    fleet.start("api")
    wait_until(fleet.is_ready, deadline_s=30, what="the API")
    return fleet


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    database = Database(fleet.env["REVERIE_DATABASE_URL"], max_size=1)
    yield database
    database.close()


@pytest.fixture(scope="module")
def ada(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


@pytest.fixture(scope="module")
def grace(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "grace")


@pytest.fixture(scope="module")
def hers(ada: Tenant, database: Database) -> Ids:
    """One object of each kind that belongs to ada."""
    dataset_id = ada.push({"a.jpg": b"not looked at here"})
    run_id = ada.submit(run_request({"photos": dataset_id, "held-out": dataset_id}))
    with database.transaction() as conn:
        tenant_id = tenants.find(conn, "ada")[0]
        target = {"kind": "folder"}
        publication = publications.insert(conn, tenant_id, run_id, target)
    return {
        "run_id": run_id,
        "dataset_id": dataset_id,
        "publication_id": publication.publication_id,
    }


@pytest.fixture(scope="module")
def routes(fleet: Fleet) -> list[tuple[str, str]]:
    document = httpx.get(f"{fleet.url}/openapi.json").json()
    found = [(method, path) for path, item in document["paths"].items() for method in item]
    assert len(found) > 15
    return found


def ask(fleet: Fleet, method: str, path: str, ids: Ids, **headers: str) -> httpx.Response:
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"{path} names an object of a new kind: add it to the ids"
    body = body_of(method, path, ids)
    return httpx.request(method, f"{fleet.url}{path}", json=body, headers=headers, timeout=30)


def test_every_route_but_the_probes_needs_a_key(
    fleet: Fleet, routes: list[tuple[str, str]], hers: Ids, grace: Tenant
) -> None:
    revoked = revoked_key(fleet)
    keys = {
        "none": {},
        "garbage": {"Authorization": "Bearer rv_!"},
        "another scheme": {"Authorization": "Basic cm9vdDpyb290"},
        "revoked": {"Authorization": f"Bearer {revoked}"},
    }
    for method, path in routes:
        for kind, headers in keys.items():
            answer = ask(fleet, method, path, hers, **headers)
            if (method, path) in OPEN:
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == 401, (method, path, kind)
                assert answer.json()["code"] == "unauthenticated"
                assert answer.headers["www-authenticate"] == "Bearer"


def revoked_key(fleet: Fleet) -> str:
    tenant = new_tenant(fleet, "mary")
    assert tenant.http.get("/v1/runs").status_code == 200
    key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"], autocommit=True) as conn:
        revoke = "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_sha256 = %s"
        assert conn.execute(revoke, [tenants.digest(key)]).rowcount == 1
    return str(key)


def test_the_object_of_another_tenant_is_answered_like_one_that_does_not_exist(
    fleet: Fleet, routes: list[tuple[str, str]], hers: Ids, ada: Tenant, grace: Tenant
) -> None:
    key = {"Authorization": grace.http.headers["Authorization"]}
    before = {name: ada.get(f"/v1/{name}") for name in ("runs", "datasets", "publications")}
    for method, path in routes:
        theirs = ask(fleet, method, path, hers, **key)
        nobodys = ask(fleet, method, path, NOBODYS, **key)
        assert without_ids(theirs, hers) == without_ids(nobodys, NOBODYS), (method, path)
        if (method, path) in OPEN | LISTS:
            assert theirs.status_code == 200, path
        elif (method, path) in CREATING:
            assert theirs.status_code == 422, path  # no body
        elif (method, path) == ("post", "/v1/runs"):
            problems = {(e["pointer"], e["code"]) for e in theirs.json()["errors"]}
            assert problems == {
                ("/datasets/photos", "not_found"),
                ("/datasets/held-out", "not_found"),
            }
        else:
            assert theirs.status_code == 404, (method, path)
            assert theirs.json()["code"] == "not_found"
    assert {name: ada.get(f"/v1/{name}") for name in before} == before


def without_ids(answer: httpx.Response, ids: Ids) -> tuple[int, str]:
    """Status and body with ids, and what differs in every answer, replaced."""
    text = answer.text.replace(answer.headers["x-request-id"], "request")
    for name, value in ids.items():
        text = text.replace(value, name)
    return answer.status_code, text
