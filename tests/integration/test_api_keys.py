"""Keys and members over HTTP: shown once, never larger than their maker, and stopped at once."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from services.domain.access import Role
from services.store import members, tenants
from services.store.database import Database
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.service import database_of
from tests.support.tenant import Json

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture
def tenant_id(database: Database) -> str:
    with database.transaction() as conn:
        return tenants.create_tenant(conn, f"ada-{uuid.uuid4()}")


class Caller:
    """Someone with a key."""

    def __init__(self, url: str, secret: str) -> None:
        self.secret = secret
        headers = {"Authorization": f"Bearer {secret}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.http.request(method, path, json=body, headers=headers)

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Json:
        answer = self.call(method, path, body, **headers)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    @property
    def status(self) -> int:
        """Of a request on a connection of its own, which any process of the API may take."""
        url, headers = self.http.base_url.join("/v1/runs"), self.http.headers
        return httpx.get(url, headers=headers, timeout=30).status_code

    @property
    def works(self) -> bool:
        return self.status == 200


@pytest.fixture
def caller(fleet: Fleet, database: Database, tenant_id: str) -> Iterator[Callable[..., Caller]]:
    """A caller with a fresh key: of the tenant's owner, or of a new member in a role."""
    made: list[Caller] = []

    def make(role: Role | None = None, *scopes: str) -> Caller:
        with database.transaction() as conn:
            member_id = None
            if role is not None:
                member_id = members.create(conn, tenant_id, name=role, role=role).member_id
            listed = list(scopes) or None
            secret = new_api_key(conn, tenant_id, member_id=member_id, scopes=listed)
        made.append(Caller(fleet.url, secret))
        return made[-1]

    yield make
    for each in made:
        each.http.close()


def problem(answer: httpx.Response) -> tuple[int, str, set[tuple[str, str]]]:
    body = answer.json()
    return answer.status_code, body["code"], {(e["pointer"], e["code"]) for e in body["errors"]}


def test_a_key_is_shown_once_and_not_kept(
    fleet: Fleet, caller: Callable[..., Caller], database: Database
) -> None:
    owner = caller()
    first = owner.call("POST", "/v1/api-keys", {"name": "ci"}, **{"Idempotency-Key": "k"})
    again = owner.call("POST", "/v1/api-keys", {"name": "ci"}, **{"Idempotency-Key": "k"})
    made, replayed = first.json(), again.json()

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert replayed == {**made, "secret": None}
    assert first.headers["Location"] == made["links"]["self"] == f"/v1/api-keys/{made['id']}"
    shown = owner.ok("GET", made["links"]["self"])
    assert "secret" not in shown
    assert shown["id"] in [key["id"] for key in owner.ok("GET", "/v1/api-keys")["data"]]
    assert Caller(fleet.url, made["secret"]).works
    with database.transaction() as conn:
        (kept,) = conn.execute(
            "SELECT string_agg(body::text, '') FROM idempotency_keys WHERE path = '/v1/api-keys'"
        ).fetchone() or ("",)
    assert '"secret": null' in kept
    assert made["secret"] not in kept


def test_a_revoked_key_stops_at_once_and_every_process_notices(
    fleet: Fleet, caller: Callable[..., Caller]
) -> None:
    owner = caller()
    made = owner.ok("POST", "/v1/api-keys", {"name": "ci"})
    user = Caller(fleet.url, made["secret"])
    assert all(user.works for _ in range(8))  # seen by both processes
    for _ in range(2):
        assert owner.call("DELETE", made["links"]["self"]).status_code == 204
    assert {user.status for _ in range(8)} == {401}
    assert owner.call("GET", made["links"]["self"]).status_code == 404
    assert made["id"] not in [key["id"] for key in owner.ok("GET", "/v1/api-keys")["data"]]


def test_a_key_may_revoke_itself(caller: Callable[..., Caller]) -> None:
    owner = caller()
    (own,) = owner.ok("GET", "/v1/api-keys")["data"]
    assert owner.call("DELETE", own["links"]["self"]).status_code == 204
    assert not owner.works


def test_while_a_key_is_rotated_both_work(
    fleet: Fleet, caller: Callable[..., Caller], database: Database
) -> None:
    owner = caller()
    request = {
        "name": "ci",
        "scopes": ["runs:read", "usage:read"],
        "expires_at": (datetime.now(UTC) + 90 * 24 * HOUR).isoformat(),
    }
    old = owner.ok("POST", "/v1/api-keys", request)
    answer = owner.call("POST", f"{old['links']['self']}:rotate", {"grace_s": 3600})
    new = answer.json()

    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/api-keys/{new['id']}"
    same = ("name", "scopes", "member_id")
    assert [new[name] for name in same] == [old[name] for name in same]
    assert seconds_until(new["expires_at"]) == pytest.approx(90 * 86_400, abs=60)
    shown = owner.ok("GET", old["links"]["self"])
    assert shown["replaced_by"] == new["id"]
    assert seconds_until(shown["expires_at"]) == pytest.approx(3600, abs=60)
    both = [Caller(fleet.url, key["secret"]) for key in (old, new)]
    assert [each.works for each in both] == [True, True]
    again = owner.call("POST", f"{old['links']['self']}:rotate")
    assert problem(again)[:2] == (409, "key_not_active")
    assert new["id"] in again.json()["detail"]

    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"], autocommit=True) as conn:
        over = "UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s"
        conn.execute(over, (old["id"],))
    assert [each.works for each in both] == [False, True]
    late = owner.call("POST", f"{old['links']['self']}:rotate")
    assert problem(late)[:2] == (409, "key_not_active")


def seconds_until(text: str) -> float:
    return (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()


def test_a_grace_of_nothing_ends_the_old_key_now(
    fleet: Fleet, caller: Callable[..., Caller]
) -> None:
    owner = caller()
    old = owner.ok("POST", "/v1/api-keys", {"name": "leaked"})
    new = owner.ok("POST", f"{old['links']['self']}:rotate", {"grace_s": 0})
    assert [Caller(fleet.url, key["secret"]).works for key in (old, new)] == [False, True]


def test_rotations_at_the_same_time_make_one_key(caller: Callable[..., Caller]) -> None:
    owner = caller()
    old = owner.ok("POST", "/v1/api-keys", {"name": "ci"})

    def rotate(_: int) -> int:
        return owner.call("POST", f"{old['links']['self']}:rotate").status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(rotate, range(8)))
    assert statuses == [201] + [409] * 7
    assert len(owner.ok("GET", "/v1/api-keys")["data"]) == 3


def test_a_key_stops_when_it_expires(fleet: Fleet, caller: Callable[..., Caller]) -> None:
    owner = caller()
    moment = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = owner.ok("POST", "/v1/api-keys", {"name": "short", "expires_at": moment})
    user = Caller(fleet.url, made["secret"])
    assert user.works
    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"], autocommit=True) as conn:
        over = "UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s"
        conn.execute(over, (made["id"],))
    assert not user.works
    past = owner.call("POST", "/v1/api-keys", {"name": "x", "expires_at": "2020-01-01T00:00:00Z"})
    assert problem(past) == (422, "invalid_request", {("/expires_at", "in_the_past")})


def test_its_last_use_is_shown(caller: Callable[..., Caller]) -> None:
    owner = caller()
    made = owner.ok("POST", "/v1/api-keys", {"name": "ci"})
    assert made["last_used_at"] is None
    (own,) = [k for k in owner.ok("GET", "/v1/api-keys")["data"] if k["id"] != made["id"]]
    assert abs(seconds_until(own["last_used_at"])) < 60


def test_no_key_makes_a_larger_one(caller: Callable[..., Caller]) -> None:
    narrow = caller("owner", "keys:write", "keys:read", "runs:read")
    same = narrow.ok("POST", "/v1/api-keys", {"name": "same"})
    assert same["scopes"] == ["keys:read", "keys:write", "runs:read"]
    asked = ["runs:read", "runs:write", "members:write"]
    refused = narrow.call("POST", "/v1/api-keys", {"name": "more", "scopes": asked})
    assert problem(refused) == (
        422,
        "invalid_request",
        {("/scopes/1", "not_allowed"), ("/scopes/2", "not_allowed")},
    )
    unlimited = caller("owner").ok("POST", "/v1/api-keys", {"name": "unlimited"})
    for key in (unlimited, caller().ok("POST", "/v1/api-keys", {"name": "b", "scopes": asked})):
        rotated = narrow.call("POST", f"{key['links']['self']}:rotate")
        assert problem(rotated)[:2] == (403, "scope_missing")
    assert narrow.ok("POST", f"{same['links']['self']}:rotate")["scopes"] == same["scopes"]


def test_a_member_sees_and_makes_keys_of_its_own_only(caller: Callable[..., Caller]) -> None:
    owner, bob = caller(), caller("member")
    (of_owner,) = [
        key
        for key in owner.ok("GET", "/v1/api-keys")["data"]
        if key["member_id"] != bob.ok("GET", "/v1/api-keys")["data"][0]["member_id"]
    ]
    own = bob.ok("POST", "/v1/api-keys", {"name": "second"})
    listed = bob.ok("GET", "/v1/api-keys")["data"]
    assert {key["member_id"] for key in listed} == {own["member_id"]}
    assert len(listed) == 2
    for method, path in (
        ("GET", of_owner["links"]["self"]),
        ("DELETE", of_owner["links"]["self"]),
        ("POST", f"{of_owner['links']['self']}:rotate"),
    ):
        assert problem(bob.call(method, path))[:2] == (404, "not_found"), method
    for_others = bob.call("POST", "/v1/api-keys", {"name": "x", "member_id": of_owner["member_id"]})
    assert problem(for_others) == (422, "invalid_request", {("/member_id", "not_allowed")})
    assert owner.works
    assert len(owner.ok("GET", "/v1/api-keys")["data"]) == 3


def test_a_demoted_member_may_do_less_with_its_next_request(
    caller: Callable[..., Caller],
) -> None:
    owner, bob = caller(), caller("member")
    own = bob.ok("GET", "/v1/api-keys")["data"][0]
    assert bob.call("POST", "/v1/datasets", {}).status_code == 422
    address = f"/v1/members/{own['member_id']}"
    assert owner.ok("PATCH", address, {"role": "viewer"})["role"] == "viewer"
    refused = bob.call("POST", "/v1/datasets", {})
    assert problem(refused)[:2] == (403, "scope_missing")
    assert (
        "the scope datasets:write, which the role viewer does not have" in refused.json()["detail"]
    )
    assert bob.works
    for _ in range(2):
        assert owner.call("DELETE", address).status_code == 204
    assert bob.status == 401
    assert owner.call("GET", address).status_code == 404
    assert own["id"] not in [key["id"] for key in owner.ok("GET", "/v1/api-keys")["data"]]


@pytest.mark.parametrize("change", ["demote", "remove"])
def test_the_last_owner_stays(caller: Callable[..., Caller], change: str) -> None:
    def leave(owner: Caller, member: Json) -> httpx.Response:
        if change == "remove":
            return owner.call("DELETE", member["links"]["self"])
        return owner.call("PATCH", member["links"]["self"], {"role": "viewer"})

    owner = caller()
    (first,) = owner.ok("GET", "/v1/members")["data"]
    assert problem(leave(owner, first))[:2] == (409, "last_owner")
    owner.ok("PATCH", first["links"]["self"], {"role": "owner", "name": "still ada"})
    # Every one of four owners leaves at the same time: three succeed.
    for name in ("b", "c", "d"):
        owner.ok("POST", "/v1/members", {"name": name, "role": "owner"})
    owners = owner.ok("GET", "/v1/members")["data"]
    callers = {
        each["id"]: Caller(
            str(owner.http.base_url),
            owner.ok("POST", "/v1/api-keys", {"name": "k", "member_id": each["id"]})["secret"],
        )
        for each in owners
    }
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda each: leave(callers[each["id"]], each), owners))
    done = {"remove": 204, "demote": 200}[change]
    assert sorted(answer.status_code for answer in statuses) == [done] * 3 + [409]
    (left,) = [
        each for each, answer in zip(owners, statuses, strict=True) if answer.status_code == 409
    ]
    remaining = callers[left["id"]].ok("GET", "/v1/members")["data"]
    assert [m["id"] for m in remaining if m["role"] == "owner"] == [left["id"]]


def test_usage_by_month_and_quotas(
    caller: Callable[..., Caller], database: Database, tenant_id: str
) -> None:
    with database.transaction() as conn:
        conn.execute("INSERT INTO gpu_classes VALUES ('h200', 3500000) ON CONFLICT DO NOTHING")
        for month, gpu_class, charged_s, cost in (
            ("2026-11-01", "h200", 3600, 3_500_000),
            ("2026-11-01", "cpu", 60.5, 0),
            ("2026-10-01", "h200", 1, 972),
            ("2025-12-01", "h200", 2, 1944),
        ):
            conn.execute(
                "INSERT INTO monthly_usage VALUES (%s, %s, %s, %s, %s)",
                (tenant_id, month, gpu_class, charged_s, cost),
            )
    billing = caller("billing")
    page = billing.ok("GET", "/v1/usage?limit=2")
    assert [month["id"] for month in page["data"]] == ["2026-11", "2026-10"]
    assert page["data"][0]["gpu_classes"] == [
        {"gpu_class": "cpu", "charged_s": 60.5, "cost_micros": 0, "currency": None},
        {"gpu_class": "h200", "charged_s": 3600, "cost_micros": 3_500_000, "currency": "USD"},
    ]
    assert (page["has_more"], page["next_cursor"]) == (True, "2026-10")
    rest = billing.ok("GET", f"/v1/usage?limit=2&after={page['next_cursor']}")
    assert [month["id"] for month in rest["data"]] == ["2025-12"]
    assert not rest["has_more"]
    assert billing.call("GET", "/v1/usage?after=2026-13").status_code == 422

    quotas = {each["id"]: each for each in billing.ok("GET", "/v1/quotas")["data"]}
    assert (quotas["queued_runs"]["limit"], quotas["queued_runs"]["used"]) == (10_000, 0)
    assert quotas["gpu_hours"]["is_default"]
    assert quotas["requests_per_minute"]["used"] is None
