"""Every route of the OpenAPI document: who is let in, and that another's object is none.

``route_table`` has a row for each. Each one is asked with the key of each role, with a key that has
only its scope and one that has all others, and with an operator's; for an object of the tenant, for
another tenant's, and for one that does not exist.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.domain.access import ROLES, SCOPES, SCOPES_OF
from services.domain.api_keys import new_key
from services.store import (
    api_keys,
    deletions,
    members,
    operator_keys,
    publications,
    tenants,
    worker_keys,
)
from services.store.database import Database
from tests.security.route_table import NOBODYS, ROUTES, WHO, Ids, Row
from tests.support.api_keys import KEY_PEPPER, new_api_key
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant, run_request
from tests.support.tenant import Json, Tenant

OF_TENANTS = {name: row for name, row in ROUTES.items() if row.scope not in (None, "operator")}
OF_OPERATORS = {name: row for name, row in ROUTES.items() if row.scope == "operator"}
MAKES_KEYS = "POST /v1/api-keys"
"""A member may not make keys for others; whether there is such a one is not looked up."""
SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(
        REVERIE_SINGLE_TENANT="false",
        # Each request comes from an address of its own: an address may send few unknown keys.
        REVERIE_TRUSTED_PROXIES="127.0.0.1",
    )
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def ada(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


@pytest.fixture(scope="module")
def ada_id(ada: Tenant, database: Database) -> str:
    with database.transaction() as conn:
        return tenants.find(conn, "ada")[0]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A member and an Authorization header with a key of its own, without a list of scopes."""

    member_id: str
    key: str


Holders = dict[str, Holder]
"""By role."""


def new_holders(tenant_id: str, database: Database) -> Holders:
    with database.transaction() as conn:
        found = {}
        for role in ROLES:
            member_id = members.create(conn, tenant_id, name=role, role=role).member_id
            key = bearer(new_api_key(conn, tenant_id, member_id=member_id))
            found[role] = Holder(member_id=member_id, key=key)
        return found


@pytest.fixture(scope="module")
def of_ada(ada_id: str, database: Database) -> Holders:
    return new_holders(ada_id, database)


@pytest.fixture(scope="module")
def of_grace(fleet: Fleet, database: Database) -> Holders:
    """Of another tenant."""
    new_tenant(fleet, "grace")
    with database.transaction() as conn:
        (grace_id,) = tenants.find(conn, "grace")
    return new_holders(grace_id, database)


@pytest.fixture(scope="module")
def only(ada_id: str, database: Database) -> dict[str, str]:
    """Scope → an owner's key that has nothing else."""
    with database.transaction() as conn:
        return {s: bearer(new_api_key(conn, ada_id, scopes=[s])) for s in SCOPES}


@pytest.fixture(scope="module")
def hers(ada: Tenant, ada_id: str, database: Database) -> Ids:
    """One object of each kind that belongs to ada."""
    return new_objects(ada, ada_id, database)


def new_objects(ada: Tenant, ada_id: str, database: Database, member_id: str | None = None) -> Ids:
    """The key is that of the member, or of ada, who makes a new member then."""
    dataset_id = ada.push({"a.jpg": b"not looked at here"})
    request = run_request({"photos": dataset_id, "held-out": dataset_id})
    batch = ada.post("/v1/batches", {"runs": [request]})
    run_id = batch["runs"][0]["run_id"]
    spare_id = ada.push({"b.jpg": b"deleted"})
    secret = {"kind": "hub", "value": "hf_0123456789abcdef"}
    assert ada.http.put("/v1/secrets/my-hub", json=secret).status_code in {200, 201}
    webhook = ada.post("/v1/webhooks", {"url": "https://example.com"})
    delivery = ada.post(f"/v1/webhooks/{webhook['id']}:test", {})
    with database.transaction() as conn:
        publication = publications.insert(conn, ada_id, run_id, {"kind": "folder"})
        deletion, _ = deletions.delete_dataset(conn, ada_id, spare_id)
        worker_key, _ = worker_keys.create(conn, KEY_PEPPER, name="box", gpu_class="cpu")
        # A key is rotated only by one that has all of its scopes.
        spare: Any = {"name": "spare", "scopes": ["keys:write"]}
        key, _ = api_keys.create(conn, ada_id, KEY_PEPPER, member_id=member_id, **spare)
        if member_id is None:
            member_id = members.create(conn, ada_id, name="bob", role="viewer").member_id
    return {
        "run_id": run_id,
        "dataset_id": dataset_id,
        "batch_id": batch["id"],
        "publication_id": publication.publication_id,
        "deletion_id": deletion.deletion_id,
        "member_id": member_id,
        "key_id": key.key_id,
        "tenant_id": ada_id,
        "worker_key_id": worker_key.key_id,
        "webhook_id": webhook["id"],
        "delivery_id": delivery["id"],
        "gpu_class": "some-class",
        "name": "my-hub",
        "path": "result/card.json",
    }


@pytest.fixture(scope="module")
def operator(database: Database) -> str:
    with database.transaction() as conn:
        return bearer(operator_keys.create(conn, KEY_PEPPER, name="operator")[1])


@pytest.fixture(scope="module")
def refused(ada_id: str, database: Database) -> dict[str, tuple[str, str]]:
    """Description → an Authorization header that no route accepts, and the form of its key."""
    with database.transaction() as conn:
        revoked, revoked_secret = api_keys.create(conn, ada_id, KEY_PEPPER, name="revoked")
        api_keys.revoke(conn, ada_id, revoked.key_id)
        expired = new_api_key(conn, ada_id, expires_at=SOON)
        removed = members.create(conn, ada_id, name="removed", role="owner")
        of_removed = new_api_key(conn, ada_id, member_id=removed.member_id)
        operators, operators_secret = operator_keys.create(conn, KEY_PEPPER, name="revoked")
        operator_keys.revoke(conn, operators.key_id)
        operators_expired = operator_keys.create(conn, KEY_PEPPER, name="x", expires_at=SOON)[1]
        _, of_worker = worker_keys.create(conn, KEY_PEPPER, name="box", gpu_class="cpu")
        # Without the revocation that ``members.remove`` adds, and without waiting for an hour.
        conn.execute("UPDATE members SET removed_at = clock_timestamp() WHERE name = 'removed'")
        for table in ("api_keys", "operator_keys"):
            soon = f"UPDATE {table} SET expires_at = clock_timestamp() WHERE expires_at > now()"
            conn.execute(soon.encode())
    good = new_key("rv_")
    mistyped = good[:-1] + ("0" if good[-1] != "0" else "1")
    return {
        "none": ("", ""),
        "garbage": ("Bearer rv_!", ""),
        "another scheme": ("Basic cm9vdDpyb290", ""),
        "wrong checksum": (bearer(mistyped), ""),
        "wrong checksum of an operator's": (bearer("rvo_" + good[3:]), ""),
        "unknown": (bearer(good), "tenant"),
        "revoked": (bearer(revoked_secret), "tenant"),
        "expired": (bearer(expired), "tenant"),
        "of a removed member": (bearer(of_removed), "tenant"),
        "unknown operator": (bearer(new_key("rvo_")), "operator"),
        "revoked operator": (bearer(operators_secret), "operator"),
        "expired operator": (bearer(operators_expired), "operator"),
        "of a remote worker": (bearer(str(of_worker)), "worker"),
    }


@pytest.fixture(scope="module")
def ask(fleet: Fleet) -> Iterator[Callable[..., httpx.Response]]:
    """Send a request of the table with these ids and this Authorization header."""
    address = itertools.count(1)
    with httpx.Client(base_url=fleet.url, timeout=30) as http:

        def send(name: str, row: Row, ids: Ids, key: str) -> httpx.Response:
            method, path = name.split(" ")
            for parameter, value in ids.items():
                path = path.replace(f"{{{parameter}}}", value)
            assert "{" not in path, f"{path} names an object of a new kind: add it to the ids"
            number = next(address)
            headers = {"X-Forwarded-For": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}
            if key:
                headers["Authorization"] = key
            query = row.query(ids) or None
            return http.request(method, path, params=query, json=row.body(ids), headers=headers)

        yield send


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def code_of(answer: httpx.Response) -> str | None:
    return answer.json()["code"] if answer.status_code >= 400 else None


def test_every_route_has_a_row_and_says_what_the_row_says(fleet: Fleet) -> None:
    document = httpx.get(f"{fleet.url}/openapi.json").json()
    found = {
        f"{method.upper()} {path}": (operation.get("x-scope"), operation.get("security"))
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert found == {
        name: (
            row.scope,
            None
            if row.scope is None
            else [{"operator_key": []} if row.scope == "operator" else {"api_key": [row.scope]}],
        )
        for name, row in ROUTES.items()
    }
    roles_of = {scope: {r for r in ROLES if scope in SCOPES_OF[r]} for scope in SCOPES}
    assert roles_of == WHO


def test_a_key_that_is_not_valid_is_let_in_nowhere(
    ask: Callable[..., httpx.Response], hers: Ids, refused: dict[str, tuple[str, str]]
) -> None:
    for name, row in ROUTES.items():
        needed = "operator" if row.scope == "operator" else "tenant"
        for description, (key, form) in refused.items():
            answer = ask(name, row, hers, key)
            found = answer.status_code, code_of(answer)
            if row.scope is None:
                assert found == (200, None), name
            elif form in ("", needed):
                assert found == (401, "unauthenticated"), (name, description)
                assert answer.headers["www-authenticate"] == "Bearer"
            else:
                assert found == (403, "wrong_key"), (name, description)


def test_what_is_not_ones_own_is_answered_like_what_does_not_exist(
    ask: Callable[..., httpx.Response], hers: Ids, ada: Tenant, of_grace: Holders
) -> None:
    """For each role; and a role does what it is for, and nothing else."""
    asked = [name.split(" ") for name, row in OF_TENANTS.items() if row.absent == 200]
    lists = [path for method, path in asked if method == "GET"]
    before = {path: without_use(ada.get(path)) for path in lists}
    for (name, row), role in itertools.product(OF_TENANTS.items(), ROLES):
        theirs = ask(name, row, hers, of_grace[role].key)
        nobodys = ask(name, row, NOBODYS, of_grace[role].key)
        assert without_ids(theirs, hers) == without_ids(nobodys, NOBODYS), (name, role)
        found = theirs.status_code, code_of(theirs)
        if role not in WHO[str(row.scope)]:
            assert found == (403, "scope_missing"), (name, role)
            needed = f"the scope {row.scope}, which the role {role} does not have"
            assert needed in theirs.json()["detail"]
        elif role == "member" and name == MAKES_KEYS:
            assert found == (422, "invalid_request")
        else:
            assert theirs.status_code == row.absent, (name, role, theirs.text)
            assert row.absent != 404 or code_of(theirs) == "not_found"
    assert {path: without_use(ada.get(path)) for path in lists} == before


def test_a_key_without_the_scope_is_refused_whatever_it_asks_for(
    ask: Callable[..., httpx.Response],
    hers: Ids,
    only: dict[str, str],
    ada_id: str,
    database: Database,
) -> None:
    with database.transaction() as conn:
        without = {
            scope: bearer(new_api_key(conn, ada_id, scopes=sorted(set(SCOPES) - {scope})))
            for scope in SCOPES
        }
    for name, row in OF_TENANTS.items():
        scope = str(row.scope)
        assert ask(name, row, NOBODYS, only[scope]).status_code == row.absent, name
        for ids in (hers, NOBODYS):
            answer = ask(name, row, ids, without[scope])
            assert (answer.status_code, code_of(answer)) == (403, "scope_missing"), name
            assert f"the scope {scope}, which this key was made without" in answer.json()["detail"]


def test_keys_of_operators_and_of_tenants_are_for_different_routes(
    ask: Callable[..., httpx.Response], hers: Ids, of_ada: Holders, operator: str
) -> None:
    for name, row in OF_OPERATORS.items():
        assert ask(name, row, NOBODYS, operator).status_code == row.absent, name
    wrong = [
        *(
            (name, row, holder.key)
            for name, row in OF_OPERATORS.items()
            for holder in of_ada.values()
        ),
        *((name, row, operator) for name, row in OF_TENANTS.items()),
    ]
    for (name, row, key), ids in itertools.product(wrong, (hers, NOBODYS)):
        answer = ask(name, row, ids, key)
        assert (answer.status_code, code_of(answer)) == (403, "wrong_key"), name


def test_an_operator_finds_a_key_at_its_own_tenant_only(
    ask: Callable[..., httpx.Response],
    hers: Ids,
    of_grace: Holders,  # the other tenant is there
    operator: str,
    database: Database,
) -> None:
    with database.transaction() as conn:
        (grace_id,) = tenants.find(conn, "grace")
    mixed = {**hers, "tenant_id": grace_id}
    for name, row in OF_OPERATORS.items():
        if "{key_id}" in name:
            answer = ask(name, row, mixed, operator)
            assert (answer.status_code, code_of(answer)) == (404, "not_found"), name


def without_use(page: Json) -> list[Json]:
    """The items of a list, without when a key was last used."""
    return [{**each, "last_used_at": None} for each in page.get("data", [page])]


def without_ids(answer: httpx.Response, ids: Ids) -> tuple[int, str]:
    """Status and body with ids, and what differs in every answer, replaced."""
    text = answer.text.replace(answer.headers["x-request-id"], "request")
    for name, value in ids.items():
        text = text.replace(value, name)
    return answer.status_code, text


def test_a_run_of_anothers_dataset_is_refused_by_name(
    ask: Callable[..., httpx.Response], hers: Ids, of_grace: Holders
) -> None:
    answer = ask("POST /v1/runs", ROUTES["POST /v1/runs"], hers, of_grace["owner"].key)
    assert {(each["pointer"], each["code"]) for each in answer.json()["errors"]} == {
        ("/datasets/photos", "not_found"),
        ("/datasets/held-out", "not_found"),
    }


@pytest.mark.parametrize("role", [*ROLES, "owner with one scope"])
def test_ones_own_object_is_found(  # noqa: PLR0917 - fixtures
    ask: Callable[..., httpx.Response],
    role: str,
    ada: Tenant,
    ada_id: str,
    of_ada: Holders,
    only: dict[str, str],
    database: Database,
) -> None:
    """It cancels, rotates and removes."""
    holder = of_ada.get(role)
    member_id = holder.member_id if role == "member" and holder else None
    ids = new_objects(ada, ada_id, database, member_id)
    for name, row in OF_TENANTS.items():
        scope = str(row.scope)
        answer = ask(name, row, ids, holder.key if holder else only[scope])
        if role in WHO[scope] or holder is None:
            assert answer.status_code == row.own, (name, answer.text)
        else:
            assert (answer.status_code, code_of(answer)) == (403, "scope_missing"), name


def test_an_operator_finds_what_there_is(
    ask: Callable[..., httpx.Response], hers: Ids, operator: str
) -> None:
    """The last test: it revokes a key."""
    for name, row in OF_OPERATORS.items():
        answer = ask(name, row, hers, operator)
        assert answer.status_code == row.own, (name, answer.text)
