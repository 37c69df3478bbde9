"""Quotas that refuse requests, over real HTTP, and `reverie admin quota`, which sets them."""

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.settings.env import SettingsError
from services.store import tenants
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase, checkpoint_at, result_of
from tests.support.service import database_of, run_request
from tests.support.tenant import Json, Tenant

Quota = Callable[..., str]


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_QUOTA_QUEUED_RUNS="5")
    fleet.start_api()
    return fleet


@pytest.fixture
def tenant_db(fleet: Fleet) -> Iterator[TenantDatabase]:
    with database_of(fleet) as database:
        yield TenantDatabase.new(database, name=f"ada-{uuid.uuid4()}")


@pytest.fixture
def tenant(fleet: Fleet, tenant_db: TenantDatabase) -> Iterator[Tenant]:
    with tenant_db.database.transaction() as conn:
        api_key = new_api_key(conn, tenant_db.tenant_id)
    tenant = Tenant(fleet.url, api_key)
    yield tenant
    tenant.http.close()


@pytest.fixture
def quota(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Quota:
    """Runs a command of `reverie admin quota`; what it printed on stdout."""
    for name, value in fleet.env.items():
        if name.startswith("REVERIE_"):
            monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        command = ["admin", "quota", *arguments]
        app(command, obj=Invocation(env={}), standalone_mode=False)
        return capsys.readouterr().out

    return run


def dataset_of(size_bytes: int) -> Json:
    file = {"path": "a.jpg", "size_bytes": size_bytes, "sha256": "a" * 64}
    return {"name": "photos", "files": [file]}


@pytest.fixture
def request_body(tenant: Tenant) -> Json:
    """A run of this tenant on a dataset that is still being uploaded."""
    dataset_id = tenant.post("/v1/datasets", dataset_of(1))["id"]
    return run_request(dict.fromkeys(("photos", "held-out"), dataset_id))


def submit_at_once(tenant: Tenant, body: Json, keys: list[str]) -> list[httpx.Response]:
    """Submit once with each key, over as many connections."""

    def submit(key: str) -> httpx.Response:
        return tenant.http.post("/v1/runs", json=body, headers={"Idempotency-Key": key}, timeout=60)

    with ThreadPoolExecutor(len(keys)) as pool:
        return list(pool.map(submit, keys))


def statuses(answers: list[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def test_a_hundred_submits_at_once_leave_as_many_runs_as_the_quota_allows(
    tenant: Tenant, tenant_db: TenantDatabase, request_body: Json
) -> None:
    keys = [str(number) for number in range(100)]
    answers = submit_at_once(tenant, request_body, keys)
    refused = {key: answer for key, answer in zip(keys, answers, strict=True) if answer.is_error}

    assert statuses(answers) == [201] * 5 + [403] * 95
    runs = tenant.get("/v1/runs?limit=100")["data"]
    assert len(runs) == 5
    key, refusal = next(iter(refused.items()))
    problem = refusal.json()
    assert refusal.headers["content-type"] == "application/problem+json"
    assert (problem["code"], problem["retryable"]) == ("quota_exceeded", False)
    assert problem["detail"] == (
        "The quota queued_runs allows 5 runs that are not over (used: 5, asked for: 1). Wait until "
        "a run is over, or cancel one, or ask the operator of the service for a larger quota."
    )
    assert [error["pointer"] for error in problem["errors"]] == ["quota:queued_runs"]

    # A refusal does not use up the key, and it leaves nothing behind.
    with tenant_db.database.transaction() as conn:
        rows = conn.execute(
            "SELECT (SELECT count(*) FROM idempotency_keys WHERE path = '/v1/runs'"
            " AND tenant_id = %(tenant_id)s),"
            " (SELECT count(*) FROM events WHERE tenant_id = %(tenant_id)s)",
            {"tenant_id": tenant_db.tenant_id},
        ).fetchone()
    assert rows == (5, 5)
    tenant.post(f"/v1/runs/{runs[0]['id']}:cancel", {})
    assert statuses(submit_at_once(tenant, request_body, [key, *list(refused)[1:10]])) == (
        [201] + [403] * 9
    )


def test_a_run_that_is_canceled_while_it_finishes_frees_one_place(
    tenant: Tenant, tenant_db: TenantDatabase, request_body: Json
) -> None:
    for _ in range(3):
        claim = tenant_db.held()
        submit_at_once(tenant, request_body, [str(uuid.uuid4()) for _ in range(5)])
        with ThreadPoolExecutor(2) as pool:
            canceled = pool.submit(tenant.http.post, f"/v1/runs/{claim.run_id}:cancel", json={})
            scope = (claim.run_id, claim.fence)
            tenant_db.ledger.commit_result(*scope, result_of(claim), step=100)
            assert canceled.result().status_code in {202, 409}
        assert tenant_db.run(claim.run_id).is_over

        again = submit_at_once(tenant, request_body, [str(uuid.uuid4()) for _ in range(6)])

        assert statuses(again) == [201] + [403] * 5
        # Room for the next round's run, which the store makes without asking the quota.
        newest = tenant.get("/v1/runs?limit=1")["data"][0]
        tenant.post(f"/v1/runs/{newest['id']}:cancel", {})


def test_one_tenants_quota_is_not_anothers(
    fleet: Fleet, tenant: Tenant, tenant_db: TenantDatabase, request_body: Json
) -> None:
    other = TenantDatabase.new(tenant_db.database)
    for _ in range(5):
        other.queued()
    assert tenant.post("/v1/runs", request_body)["status"] == "queued"


def test_datasets_are_refused_over_the_quotas_of_uploads_and_storage(
    tenant: Tenant, tenant_db: TenantDatabase, quota: Quota
) -> None:
    quota("set", tenant_db.tenant_id, "--uploads", "3", "--storage", "1kB")

    def create(size_bytes: int) -> httpx.Response:
        return tenant.http.post("/v1/datasets", json=dataset_of(size_bytes))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, [300] * 8))
    too_many = [answer.json() for answer in answers if answer.status_code == 403]
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE datasets SET status = 'ready' WHERE tenant_id = %s", (tenant_db.tenant_id,)
        )
    too_large, fits = create(101), create(100)

    assert statuses(answers) == [201] * 3 + [403] * 5
    assert {problem["errors"][0]["pointer"] for problem in too_many} == {"quota:uploads"}
    assert "1,000 bytes" in too_large.json()["detail"]
    assert "(used: 900, asked for: 101)" in too_large.json()["detail"]
    assert too_large.json()["errors"][0]["pointer"] == "quota:storage_bytes"
    assert fits.status_code == 201


def test_checkpoints_and_results_count_as_storage(
    tenant: Tenant, tenant_db: TenantDatabase, request_body: Json, quota: Quota
) -> None:
    claim = tenant_db.held()  # its dataset has 28 bytes; that of request_body has 1
    for step in (10, 20, 30):  # two are kept
        checkpoint = checkpoint_at(claim, step)
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=30)

    quota("set", tenant_db.tenant_id, "--storage", "58B")
    (refused,) = submit_at_once(tenant, request_body, ["key"])
    shown = json.loads(quota("show", tenant_db.tenant_id, "--json"))
    quota("set", tenant_db.tenant_id, "--storage", "59B")
    (accepted,) = submit_at_once(tenant, request_body, ["key"])

    assert shown["storage_bytes"] == {"used": 28 + 1 + 20 + 10, "limit": 58, "is_default": False}
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert "quota storage_bytes allows 58" in refused.json()["detail"]
    assert accepted.status_code == 201


def test_for_new_runs_storage_is_counted_once_a_minute(
    tenant: Tenant, tenant_db: TenantDatabase, request_body: Json, quota: Quota
) -> None:
    quota("set", tenant_db.tenant_id, "--storage", "10B")
    (counted,) = submit_at_once(tenant, request_body, ["first"])
    with tenant_db.database.transaction() as conn:
        tenant_db.dataset(conn)  # more than is allowed; the store itself does not ask
    (within_the_minute,) = submit_at_once(tenant, request_body, ["second"])
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE tenant_storage SET counted_at = counted_at - interval '1 minute'")
    (after_it,) = submit_at_once(tenant, request_body, ["third"])

    answers = [counted, within_the_minute, after_it]
    assert [answer.status_code for answer in answers] == [201, 201, 403]


def test_admin_quota_sets_limits_and_brings_defaults_back(
    tenant_db: TenantDatabase, quota: Quota
) -> None:
    tenant_id = tenant_db.tenant_id
    tenant_db.queued()
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "INSERT INTO monthly_usage (tenant_id, month, gpu_class, charged_s) VALUES"
            " (%(id)s, date_trunc('month', now() AT TIME ZONE 'UTC'), 'cpu', 5400),"
            " (%(id)s, date_trunc('month', now() AT TIME ZONE 'UTC'), 'h200', 1800),"
            " (%(id)s, '2020-01-01', 'cpu', 999999)",
            {"id": tenant_id},
        )

    limits = ("--queued-runs", "7", "--concurrent-runs", "2", "--gpu-hours", "1.5")
    table = quota("set", tenant_id, *limits, "--storage", "2TiB", "--requests-per-minute", "60")
    quota("set", tenant_id, "--queued-runs", "none", "--uploads", "0")
    shown: dict[str, Any] = json.loads(quota("show", tenant_id, "--json"))

    assert [line.split()[:3] for line in table.splitlines()][1:4] == [
        ["queued_runs", "1", "7"],
        ["concurrent_runs", "0", "2"],
        ["gpu_hours", "2.0", "1.5"],
    ]
    assert {name: (each["limit"], each["is_default"]) for name, each in shown.items()} == {
        "queued_runs": (5, True),
        "concurrent_runs": (2, False),
        "gpu_hours": (1.5, False),
        "storage_bytes": (2 << 40, False),
        "uploads": (0, False),
        "requests_per_minute": (60, False),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nobody"), "there is no tenant nobody; the newest are "),
        (("set", "nobody"), "no limit is named: give at least one"),
        (("set", "nobody", "--uploads", "-1"), "--uploads is -1; it has to be a whole number"),
        (("set", "nobody", "--gpu-hours", "nan"), "--gpu-hours is nan; it has to be a number"),
        (("set", "nobody", "--storage", "5 mb"), "--storage is 5 mb; it has to be a size such as"),
    ],
)
def test_a_wrong_command_says_what_to_give(
    tenant_db: TenantDatabase, quota: Quota, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        quota(*arguments)


def test_a_name_may_stand_for_the_id_while_it_is_unique(
    tenant_db: TenantDatabase, quota: Quota
) -> None:
    name = str(uuid.uuid4())
    with tenant_db.database.transaction() as conn:
        first = tenants.create_tenant(conn, name)
    quota("set", name, "--uploads", "1")
    with tenant_db.database.transaction() as conn:
        tenants.create_tenant(conn, name)

    assert json.loads(quota("show", first, "--json"))["uploads"]["limit"] == 1
    with pytest.raises(CommandError, match=f"several tenants are called {name}: give an id"):
        quota("show", name)


def test_without_a_database_the_setting_is_named(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_DATABASE_URL", "")
    with pytest.raises(SettingsError, match="REVERIE_DATABASE_URL is not set"):
        quota("show", "ada")
