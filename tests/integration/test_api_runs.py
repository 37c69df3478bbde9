"""The API over real PostgreSQL and the folder store, in a process of its own."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import httpx
import psycopg
import pytest

from services.api.runs.routes import list_runs
from services.settings.env import Settings
from services.store.database import Database
from services.store.run_lists import ALL
from services.store.scoped_database import ScopedDatabase
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase
from tests.support.service import run_request
from tests.support.tenant import Json, Tenant


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    dataset = tenant.push({"a.jpg": b"not looked at here", "a.txt": b"a caption"})
    return {"photos": dataset, "held-out": dataset}


def test_a_run_is_created_with_its_resolved_plan(tenant: Tenant, datasets: dict[str, str]) -> None:
    run = tenant.post("/v1/runs", run_request(datasets))

    assert run["object"] == "run"
    assert (run["status"], run["stage"]) == ("queued", "admission")
    plan = tenant.get(run["links"]["plan"])
    assert plan["identity"]["adapter"]["factor"] == 16
    assert tenant.run(run["id"])["plan_digest"] == run["plan_digest"]
    assert tenant.get("/v1/runs?limit=1")["data"][0]["id"] == run["id"]
    assert [e["type"] for e in tenant.events(run["id"])] == ["run.queued"]


def test_a_run_says_its_priority_what_it_waits_for_and_what_it_cost(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    created = tenant.post("/v1/runs", {**run_request(datasets), "priority": "high"})
    assert created["waiting"]["code"] == "waiting_for_admission"

    run = tenant.run(created["id"])
    assert run["priority"] == "high"
    assert run["waiting"]["code"] == "waiting_for_data"
    assert run["waiting"]["position"] == 1  # before the runs of other tests
    assert run["waiting"]["eta_s"] is None
    assert (run["charged_s"], run["cost_micros"], run["currency"]) == (0, 0, None)
    shown = {
        name: value
        for name, value in run.items()
        if name not in {"warnings", "notices", "attempts", "estimate", "relay"}
    }
    assert shown in tenant.get("/v1/runs?limit=5")["data"]
    tenant.post(f"/v1/runs/{run['id']}:cancel", {})
    assert tenant.run(run["id"])["waiting"] is None

    wrong = tenant.http.post("/v1/runs", json={**run_request(datasets), "priority": "urgent"})
    assert wrong.status_code == 422
    assert [each["pointer"] for each in wrong.json()["errors"]] == ["/priority"]


def test_the_same_key_gives_the_same_run_even_at_once(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    body = run_request(datasets)

    def submit(_: int) -> httpx.Response:
        return tenant.http.post("/v1/runs", json=body, headers={"Idempotency-Key": "twice"})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(submit, range(20)))

    assert {a.status_code for a in answers} == {201}
    assert all(a.json() == answers[0].json() for a in answers)
    assert sum("Idempotent-Replayed" not in a.headers for a in answers) == 1
    other = tenant.http.post(
        "/v1/runs", json={**body, "metadata": {"a": "b"}}, headers={"Idempotency-Key": "twice"}
    )
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"


def test_a_refused_request_leaves_its_key_free(tenant: Tenant, datasets: dict[str, str]) -> None:
    headers = {"Idempotency-Key": "mended"}
    wrong = tenant.http.post("/v1/runs", json=run_request({}), headers=headers)
    right = tenant.http.post("/v1/runs", json=run_request(datasets), headers=headers)
    assert (wrong.status_code, right.status_code) == (422, 201)


def test_a_queued_run_is_canceled_at_once(tenant: Tenant, datasets: dict[str, str]) -> None:
    run_id = tenant.submit(run_request(datasets))

    assert tenant.post(f"/v1/runs/{run_id}:cancel", {})["status"] == "canceled"

    types = [e["type"] for e in tenant.events(run_id)]
    assert types == ["run.queued", "run.canceling", "run.canceled"]
    stream = tenant.http.get(
        f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"}, timeout=10
    )
    ids = [line[4:] for line in stream.text.splitlines() if line.startswith("id: ")]
    assert ids == ["1", "2", "3"]
    again = tenant.http.get(
        f"/v1/runs/{run_id}/events",
        headers={"Accept": "text/event-stream", "Last-Event-ID": "3"},
    )
    assert again.status_code == 204


def test_a_queued_run_is_paused_changed_and_resumed(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    run_id = tenant.submit(run_request(datasets))
    path = f"/v1/runs/{run_id}"
    for action, status in [("pause", "paused"), ("resume", "queued"), ("pause", "paused")] * 2:
        for _ in range(2):
            answer = tenant.http.post(f"{path}:{action}")  # without a body
            assert (answer.status_code, answer.json()["status"]) == (202, status)
    patch = {
        "priority": "low",
        "max_gpu_hours": 0.7,
        "deadline": "2030-01-02T03:04:05+01:00",
        "metadata": {"a": "1", "b": "2"},
    }
    merge = {"Content-Type": "application/merge-patch+json"}
    changed = tenant.http.patch(path, content=json.dumps(patch), headers=merge)
    assert changed.status_code == 200, changed.text
    shown = tenant.run(run_id)
    assert shown == changed.json()
    assert {name: shown[name] for name in patch} == {**patch, "deadline": "2030-01-02T02:04:05Z"}
    removed = tenant.http.patch(
        path, json={"priority": None, "deadline": None, "metadata": {"a": None}}
    ).json()
    assert (removed["priority"], removed["deadline"]) == ("normal", None)
    assert (removed["max_gpu_hours"], removed["metadata"]) == (0.7, {"b": "2"})
    assert tenant.http.patch(path, json={}).json() == removed
    assert tenant.http.patch(path, json={"metadata": None}).json()["metadata"] == {}
    assert tenant.http.post(f"{path}:cancel", json={"now": True}).json()["status"] == "canceled"
    too_late = [tenant.http.post(f"{path}:{each}") for each in ("pause", "resume")]
    too_late.append(tenant.http.patch(path, json={"priority": "high"}))
    assert [(a.status_code, a.json()["code"]) for a in too_late] == [
        (409, "illegal_move"),
        (409, "illegal_move"),
        (409, "run_over"),
    ]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"max_cost_micros": 5_000_000}, "/max_cost_micros"),  # there is no price
        ({"max_cost_micros": 0}, "/max_cost_micros"),
        ({"max_gpu_hours": -1}, "/max_gpu_hours"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "/deadline"),
        ({"deadline": "2290-01-01T00:00:00Z"}, "/deadline"),
        ({"deadline": "2030-01-01T00:00:00"}, "/deadline"),  # of which time zone?
        ({"deadline": "2030-01-01"}, "/deadline"),
        ({"deadline": "1893456000"}, "/deadline"),
        ({"deadline": 1893456000}, "/deadline"),
    ],
)
def test_a_limit_that_cannot_hold_is_refused(
    tenant: Tenant, datasets: dict[str, str], given: Json, pointer: str
) -> None:
    run_id = tenant.submit(run_request(datasets))
    answers = [
        tenant.http.post("/v1/runs", json={**run_request(datasets), **given}),
        tenant.http.patch(f"/v1/runs/{run_id}", json=given),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
        assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]
    tenant.post(f"/v1/runs/{run_id}:cancel", {})


def test_a_run_is_submitted_with_its_limits(tenant: Tenant, datasets: dict[str, str]) -> None:
    limits = {"max_gpu_hours": 1.5, "deadline": "2030-01-01T00:00:00Z"}
    run = tenant.post("/v1/runs", {**run_request(datasets), **limits})
    assert {name: run[name] for name in limits} == limits
    assert run["max_cost_micros"] is None
    tenant.post(f"/v1/runs/{run['id']}:cancel", {})


def test_a_page_of_runs_takes_as_many_statements_as_one_run(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_db = TenantDatabase.new(database)
    scoped = ScopedDatabase(database_url, 1, statement_timeout=timedelta(seconds=10))
    claims = [tenant_db.held() for _ in range(3)]
    waiting = tenant_db.queued()
    statements: list[object] = []
    execute = psycopg.Cursor.execute

    def counted(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        statements.append(query)
        return execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    service = Mock(database=scoped, settings=Settings.from_env({}))
    list_runs(service, tenant_db.tenant_id, ALL, limit=1)
    num_for_one = len(statements)
    page = list_runs(service, tenant_db.tenant_id, ALL, limit=10)

    scoped.close()
    assert len(statements) == 2 * num_for_one > 0
    assert {run.id for run in page.data} == {waiting.run_id, *(c.run_id for c in claims)}


def test_a_wrong_method_is_answered_with_all_allowed_ones(tenant: Tenant) -> None:
    assert tenant.http.delete("/v1/runs").headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("DELETE", "/v1/runs", None, 405, "method_not_allowed"),
        ("POST", "/v1/runs", b"{", 400, "invalid_json"),
        ("POST", "/v1/runs", b"[]", 422, "invalid_request"),
        ("POST", "/v1/runs", b'{"config": {}, "surprise": 1}', 422, "invalid_request"),
        ("POST", "/v1/runs", b" " * (5 << 20), 413, "body_too_large"),
        ("GET", "/v1/runs/run_" + "0" * 32, None, 404, "not_found"),
        ("GET", "/v1/runs/..%2f..", None, 404, "not_found"),
        ("GET", "/v1/runs?limit=1000", None, 422, "invalid_request"),
        ("GET", "/v1/runs/run_" + "0" * 32 + "/events?after=-1", None, 422, "invalid_request"),
        ("POST", "/v1/uploads", b'{"dataset_id": "ds_x"}', 404, "not_found"),
    ],
)
def test_every_wrong_request_is_a_problem(
    *, tenant: Tenant, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    answer = tenant.http.request(method, path, content=body, headers=headers)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["code"] == code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["status"] == status


def test_values_that_cannot_be_stored_are_refused_with_pointers(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    body = json.dumps(run_request(datasets))
    for spoiled in (
        body.replace('"seed": 42', '"seed": NaN'),
        body.replace('"seed": 42', '"seed": "\\u0000"'),
        body.replace('"seed": 42', '"seed": "\\ud800"'),
        body.replace('"seed": 42', '"seed": ' + "[" * 60 + "]" * 60),
    ):
        assert spoiled != body
        answer = tenant.http.post(
            "/v1/runs", content=spoiled, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text
        assert "seed" in answer.text


@pytest.mark.parametrize(
    "path", ["../a.jpg", "/a.jpg", "a\\b.jpg", "a//b.jpg", "a\n.jpg", "virus.exe", "a.svg"]
)
def test_unsafe_paths_are_refused(tenant: Tenant, path: str) -> None:
    listed = [{"path": path, "size_bytes": 3, "sha256": "0" * 64}]
    answer = tenant.http.post("/v1/datasets", json={"name": "bad", "files": listed})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/files/0/path"


def test_openapi_names_every_route_and_is_3_1(tenant: Tenant) -> None:
    document = tenant.get("/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert {"/v1/runs", "/v1/datasets", "/v1/uploads", "/v1/publications", "/healthz"} <= set(
        document["paths"]
    )


def test_health_needs_no_key(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{fleet.url}/readyz").status_code == 200


def test_answers_stay_small_whatever_a_run_has(
    fleet: Fleet, tenant: Tenant, datasets: dict[str, str]
) -> None:
    run_ids = [tenant.submit(run_request(datasets)) for _ in range(20)]
    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"]) as conn:
        conn.execute(
            "UPDATE run_documents"
            " SET plan = plan || jsonb_build_object('long', repeat('x', 500000)),"
            " data_index = to_jsonb(repeat('x', 1000000)) WHERE run_id = ANY(%s)",
            (run_ids,),
        )
        conn.execute(
            "INSERT INTO attempts (attempt_id, run_id, tenant_id, fence, worker_id, from_step,"
            " last_step) SELECT run_id || number, run_id, tenant_id, number, 'wrk', 0, 0"
            " FROM runs, generate_series(1, 150) AS number WHERE run_id = ANY(%s)",
            (run_ids,),
        )

    page = tenant.http.get("/v1/runs?limit=20")
    one = tenant.http.get(f"/v1/runs/{run_ids[0]}")

    assert [run["id"] for run in page.json()["data"]] == run_ids[::-1]
    assert len(page.content) < 40_000
    assert [attempt["fence"] for attempt in one.json()["attempts"]] == list(range(51, 151))
    assert len(one.content) < 60_000
    assert len(tenant.get(one.json()["links"]["plan"])["long"]) == 500_000
