"""Batches over real PostgreSQL: rows accepted and refused, quotas, replays, cancel, compare."""

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.domain.ledger import ChildEvent, Claim, RequestedAction
from services.store import admission, quotas
from tests.support.api_keys import new_api_key
from tests.support.batch_requests import refused, runs_of, swept, without
from tests.support.fleet import Fleet
from tests.support.runs import INDEX, LEASE, TenantDatabase, needed, result_of
from tests.support.service import database_of, new_tenant, push_unread, run_request
from tests.support.tenant import Json, Tenant


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    """The API alone, in one process, so that all requests meet each other there."""
    fleet = fleet_of(REVERIE_API_PROCESSES="1")
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
def base(tenant: Tenant) -> Json:
    return run_request(push_unread(tenant))


def claim(tenant_db: TenantDatabase, run_id: str) -> Claim:
    """Let a worker take a run whose data needs no cache."""
    with tenant_db.database.transaction() as conn:
        assert admission.admit(conn, run_id, INDEX, needed(), [])
    found = tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE)
    assert found is not None
    return found


def test_the_good_rows_of_a_sweep_become_runs_and_the_others_are_named(
    tenant: Tenant, base: Json
) -> None:
    options = {"--learning_rate": [1e-3, -1, 2e-3], "lycoris_config.factor": [8, 16]}
    batch = tenant.post("/v1/batches", {"name": "rates", **swept(base, options)})

    assert (batch["object"], batch["name"]) == ("batch", "rates")
    assert (batch["num_runs"], batch["num_refused"], batch["counts"]) == (4, 2, {"queued": 4})
    assert batch["max_steps"] == 4 * 30
    assert list(batch["sweep"]["options"]) == list(options)
    assert [(row["row"], row["options"]) for row in batch["runs"]] == [
        (0, {"--learning_rate": 1e-3, "lycoris_config.factor": 8}),
        (1, {"--learning_rate": 1e-3, "lycoris_config.factor": 16}),
        (4, {"--learning_rate": 2e-3, "lycoris_config.factor": 8}),
        (5, {"--learning_rate": 2e-3, "lycoris_config.factor": 16}),
    ]
    assert [(row["row"], row["num_errors"]) for row in batch["refused"]] == [(2, 1), (3, 1)]
    (error,) = batch["refused"][0]["errors"]
    assert (error["pointer"], error["code"]) == ("/sweep/options/--learning_rate/1", "bad_value")
    assert error["message"].startswith("learning_rate has to be")

    listed = tenant.get(batch["links"]["runs"])["data"]
    assert {run["id"]: run["batch_row"] for run in listed} == {
        row["run_id"]: row["row"] for row in batch["runs"]
    }
    assert {run["batch_id"] for run in listed} == {batch["id"]}
    assert {run["links"]["batch"] for run in listed} == {batch["links"]["self"]}
    plan = tenant.get(f"/v1/runs/{batch['runs'][2]['run_id']}/plan")
    assert plan["identity"]["optimizer"]["learning_rate"] == 2e-3
    assert plan["identity"]["adapter"]["factor"] == 8
    assert tenant.get(batch["links"]["self"]) == batch
    assert tenant.events(batch["runs"][0]["run_id"])[0]["type"] == "run.queued"
    order = [run["batch_row"] for run in sorted(listed, key=lambda run: str(run["created_at"]))]
    assert order == [0, 1, 4, 5]  # which is the order in which they go


def test_a_list_of_runs_is_a_batch_whose_rows_are_refused_by_pointer(
    tenant: Tenant, base: Json
) -> None:
    wrong = {**base, "config": {**base["config"], "optimiser": "adam"}}
    other = {**base, "config": {**base["config"], "seed": 7}, "priority": "high"}
    batch = tenant.post("/v1/batches", {"runs": [base, wrong, other]})

    assert [row["row"] for row in batch["runs"]] == [0, 2]
    assert batch["runs"][1]["options"] == {"seed": 7, "optimiser": None, "priority": "high"}
    (row,) = batch["refused"]
    (error,) = row["errors"]
    assert (row["row"], row["options"]["optimiser"]) == (1, "adam")
    assert error["pointer"] == "/runs/1/config/optimiser"
    assert "Did you mean optimizer" in error["message"]
    assert batch["sweep"] is None


def test_a_batch_without_a_good_row_is_refused_and_tells_each_problem_once(
    tenant: Tenant, base: Json
) -> None:
    wrong = {**base, "config": {**base["config"], "optimiser": "adam"}}
    problem = refused(tenant, swept(wrong, {"learning_rate": [1e-3, 2e-3, -1]}))

    assert problem["code"] == "invalid_plan"
    assert [error["pointer"] for error in problem["errors"]] == [
        "/base/config/optimiser",
        "/sweep/options/learning_rate/2",
    ]
    listed = refused(tenant, {"runs": [wrong, wrong]})
    assert [error["pointer"] for error in listed["errors"]] == [
        "/runs/0/config/optimiser",
        "/runs/1/config/optimiser",
    ]
    assert runs_of(tenant) == tenant.get("/v1/batches")["data"] == []


@pytest.mark.parametrize(
    ("change", "pointer", "message"),
    [
        (lambda base: {"base": base}, "", "either runs, or base and sweep"),
        (lambda base: {"runs": [base], **swept(base, {"seed": [1]})}, "", "either runs, or base"),
        (lambda base: {"runs": []}, "/runs", "at least 1 item"),
        (lambda base: {"runs": [base] * 201}, "/runs", "at most 200 items"),
        (lambda base: {"runs": [base, without(base, "config")]}, "/runs/1/config", "required"),
        (
            lambda base: swept(base, {"learning_rat": [1, 2]}),
            "/sweep/options/learning_rat/0",
            "Did you mean learning_rate",
        ),
        (
            lambda base: swept(base, {"data_backends.phots.crop": [True]}),
            "/sweep/options/data_backends.phots.crop",
            "Did you mean photos?",
        ),
        (
            lambda base: swept(base, {"datasets.photos": [5]}),
            "/sweep/options/datasets.photos/0",
            "valid string",
        ),
        (
            lambda base: swept(base, {"seed": list(range(15)), "resolution": list(range(14))}),
            "/sweep/options",
            "The grid has 210 runs",
        ),
        (
            lambda base: swept(base, {"seed": 5}),
            "/sweep/options/seed",
            "list of values, or a range",
        ),
        (
            lambda base: swept(base, {"seed": {"min": "a", "max": 2, "step": 1}}),
            "/sweep/options/seed/min",
            "has to be a number",
        ),
        (
            lambda base: swept(base, {"seed": [1]}, num_runs=3),
            "/sweep/num_runs",
            "grid has no use for it",
        ),
        (
            lambda base: swept(
                {**base, "prompt_library": {"long": "x" * 100_000}}, {"seed": list(range(170))}
            ),
            "/base",
            "send a shorter base, or fewer runs",
        ),
    ],
)
def test_a_wrong_request_names_the_place(
    tenant: Tenant, base: Json, change: Callable[[Json], Json], pointer: str, message: str
) -> None:
    problem = refused(tenant, change(base))
    found = {error["pointer"]: error["message"] for error in problem["errors"]}
    assert message in found[pointer], found


def test_random_rows_are_drawn_by_the_seed(tenant: Tenant, base: Json) -> None:
    options = {"learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"}, "seed": [1, 2, 3]}
    facts = {"method": "random", "num_runs": 5}
    first = tenant.post("/v1/batches", swept(base, options, **facts))
    again = tenant.post("/v1/batches", swept(base, options, seed=0, **facts))
    other = tenant.post("/v1/batches", swept(base, options, seed=1, **facts))

    def chosen(batch: Json) -> list[Json]:
        return [row["options"] for row in batch["runs"]]

    assert first["sweep"]["seed"] == 0
    assert len(chosen(first)) == 5
    assert chosen(first) == chosen(again) != chosen(other)
    assert first["id"] != again["id"]


def test_five_posts_with_one_key_make_one_batch(tenant: Tenant, base: Json) -> None:
    body = swept(base, {"learning_rate": [1e-3, -1, 2e-3]})
    start = threading.Barrier(5)

    def submit(_: int) -> httpx.Response:
        start.wait()
        return tenant.http.post(
            "/v1/batches", json=body, headers={"Idempotency-Key": "sweep"}, timeout=60
        )

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(submit, range(5)))

    assert {answer.status_code for answer in answers} == {201}
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    batch = answers[0].json()
    assert {answer.headers["location"] for answer in answers} == {batch["links"]["self"]}
    assert len(runs_of(tenant)) == len(batch["runs"]) == 2
    assert [each["id"] for each in tenant.get("/v1/batches")["data"]] == [batch["id"]]
    changed = tenant.http.post(
        "/v1/batches", json={**body, "name": "x"}, headers={"Idempotency-Key": "sweep"}
    )
    assert changed.json()["code"] == "idempotency_key_reused"


def test_the_quota_holds_for_the_batch_as_a_whole(
    tenant: Tenant, tenant_db: TenantDatabase, base: Json
) -> None:
    with tenant_db.database.transaction() as conn:
        quotas.change(conn, tenant_db.tenant_id, {"queued_runs": 5})
    tenant.post("/v1/runs", base)
    body = {"runs": [base] * 5}
    headers = {"Idempotency-Key": "five"}

    over = tenant.http.post("/v1/batches", json=body, headers=headers)
    nothing = [run["batch_id"] for run in runs_of(tenant)]
    # A row that is refused needs no place.
    wrong = {**base, "datasets": {}}
    exact = tenant.post("/v1/batches", {"runs": [*[base] * 4, wrong]})

    assert (over.status_code, over.json()["code"]) == (403, "quota_exceeded")
    assert "(used: 1, asked for: 5)" in over.json()["detail"]
    assert nothing == [None]
    assert (exact["num_runs"], exact["num_refused"]) == (4, 1)
    assert refused(tenant, {"runs": [base]}, status=403)["code"] == "quota_exceeded"
    tenant.post(f"/v1/batches/{exact['id']}:cancel", {})
    assert tenant.http.post("/v1/batches", json={"runs": [base] * 4}).status_code == 201
    assert tenant.http.post("/v1/batches", json=body, headers=headers).status_code == 403


def test_batches_at_once_leave_as_many_runs_as_the_quota_allows(
    tenant: Tenant, tenant_db: TenantDatabase, base: Json
) -> None:
    with tenant_db.database.transaction() as conn:
        quotas.change(conn, tenant_db.tenant_id, {"queued_runs": 7})

    def submit(_: int) -> int:
        return tenant.http.post("/v1/batches", json={"runs": [base] * 3}, timeout=60).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(submit, range(6)))

    assert statuses == [201] * 2 + [403] * 4
    assert len(runs_of(tenant)) == 6


def test_a_batch_counts_as_many_requests_as_it_has_rows(
    tenant: Tenant, tenant_db: TenantDatabase, base: Json
) -> None:
    with tenant_db.database.transaction() as conn:
        quotas.change(conn, tenant_db.tenant_id, {"requests_per_minute": 10})
        conn.execute("DELETE FROM rate_buckets WHERE tenant_id = %s", (tenant_db.tenant_id,))
    body = {"runs": [base] * 6}
    started_s = time.monotonic()

    first = tenant.http.post("/v1/batches", json=body, headers={"Idempotency-Key": "six"})
    replayed = tenant.http.post("/v1/batches", json=body, headers={"Idempotency-Key": "six"})
    second = tenant.http.post("/v1/batches", json=body)
    third = tenant.http.post("/v1/batches", json={"runs": [base]})

    took_s = time.monotonic() - started_s
    assert [each.status_code for each in (first, replayed, second, third)] == [201, 201, 201, 429]
    # Of ten, six seconds fill one again.
    left = int(replayed.headers["ratelimit"].partition("r=")[2].partition(";")[0])
    assert 3 <= left <= 3 + math.ceil(took_s / 6)
    # Less than nothing is left: -3.
    assert 24 - took_s - 1 < int(third.headers["retry-after"]) <= 24


def test_a_batch_is_canceled_while_one_run_trains_and_one_has_ended(
    tenant: Tenant, tenant_db: TenantDatabase, base: Json
) -> None:
    batch = tenant.post("/v1/batches", swept(base, {"seed": [1, 2, 3, 4]}))
    ids = [row["run_id"] for row in batch["runs"]]
    ended = claim(tenant_db, ids[0])
    tenant_db.ledger.commit_result(ended.run_id, ended.fence, result_of(ended), step=30)
    held = claim(tenant_db, ids[1])

    canceled = tenant.http.post(f"/v1/batches/{batch['id']}:cancel", json={})
    again = tenant.http.post(f"/v1/batches/{batch['id']}:cancel")

    assert (canceled.status_code, again.status_code) == (202, 202)
    assert canceled.json()["counts"] == {"succeeded": 1, "canceling": 1, "canceled": 2}
    assert again.json() == canceled.json()
    assert tenant.run(held.run_id)["status"] == "canceling"
    types = [event["type"] for event in tenant.events(held.run_id)]
    assert types.count("run.canceling") == 1
    now = tenant.http.post(f"/v1/batches/{batch['id']}:cancel", json={"now": True})
    assert now.status_code == 202
    renewed = tenant_db.ledger.renew(held.run_id, held.fence, lease=LEASE)
    assert renewed.requested is RequestedAction.CANCEL_NOW


def test_runs_are_compared_by_what_differs(
    tenant: Tenant, tenant_db: TenantDatabase, base: Json
) -> None:
    batch = tenant.post("/v1/batches", swept(base, {"learning_rate": [1e-3, 2e-3]}))
    path = batch["links"]["compare"]
    before = tenant.get(path)
    held = claim(tenant_db, batch["runs"][1]["run_id"])
    steps = [ChildEvent(type="step", step=n, data={"loss": n / 8}) for n in (1, 2)]
    more = ChildEvent(type="step", step=3, data={"loss": None})
    tenant_db.ledger.event(held.run_id, held.fence, [*steps, more])
    worse = ChildEvent(type="step", step=4, data={"loss": 3.0})
    probe = {"name": "probe", "mean": 0.5, "held_out_mean": None, "losses": [0.5]}
    measured = [
        ChildEvent(type="eval", step=4, data=data)
        for data in (probe, {"name": "evaluation", "mean": 9.0})
    ]
    tenant_db.ledger.event(held.run_id, held.fence, [worse, *measured])
    after = tenant.get(path)

    assert before["options"] == ["learning_rate"]
    assert [run["options"] for run in before["runs"]] == [
        {"learning_rate": 1e-3},
        {"learning_rate": 2e-3},
    ]
    assert {run["loss"] for run in before["runs"]} == {None}
    first, second = after["runs"]
    assert first == before["runs"][0]
    assert (second["status"], second["loss"], second["loss_step"]) == ("running", 3.0, 4)
    assert (second["best_loss"], second["best_loss_step"]) == (0.125, 1)
    assert second["evaluation"] == {"step": 4, "mean": 0.5, "held_out_mean": None}
    assert (second["run_id"], second["max_steps"]) == (held.run_id, 30)


def test_batches_are_listed_in_pages_newest_first(tenant: Tenant, base: Json) -> None:
    ids = [tenant.post("/v1/batches", {"runs": [base]})["id"] for _ in range(3)]

    page = tenant.get("/v1/batches?limit=2")
    rest = tenant.get(f"/v1/batches?limit=2&after={page['next_cursor']}")

    assert [each["id"] for each in (*page["data"], *rest["data"])] == ids[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert page["data"][0]["counts"] == {"queued": 1}
    assert "runs" not in page["data"][0]


def test_the_batches_of_others_do_not_exist(fleet: Fleet, tenant: Tenant, base: Json) -> None:
    batch = tenant.post("/v1/batches", {"runs": [base]})
    eve = new_tenant(fleet, f"eve-{uuid.uuid4()}")
    for method, path in (
        ("GET", f"/v1/batches/{batch['id']}"),
        ("GET", f"/v1/batches/{batch['id']}/compare"),
        ("POST", f"/v1/batches/{batch['id']}:cancel"),
        ("GET", "/v1/batches/bat_x"),
    ):
        assert eve.http.request(method, path).status_code == 404, path
    assert eve.get(f"/v1/runs?batch_id={batch['id']}")["data"] == []
    assert eve.get("/v1/batches")["data"] == []
    assert tenant.get(batch["links"]["self"]) == batch


def test_two_hundred_rows_leave_others_their_answers(
    fleet: Fleet, tenant: Tenant, base: Json
) -> None:
    body = swept(base, {"seed": list(range(1, 201))})
    done = threading.Event()
    waits: list[float] = []

    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(tenant.http.post, "/v1/batches", json=body, timeout=60)
        posted.add_done_callback(lambda _: done.set())
        with httpx.Client(base_url=fleet.url) as other:
            while not done.is_set():
                answer = other.get("/healthz", timeout=20)
                waits.append(answer.elapsed.total_seconds())
    batch = posted.result().json()

    assert (batch["num_runs"], batch["counts"]) == (200, {"queued": 200})
    print(f"200 rows: {posted.result().elapsed.total_seconds():.2f} s")
    print(f"{len(waits)} other requests, the slowest {max(waits) * 1000:.0f} ms")
    assert max(waits) < 2
    assert len(posted.result().content) < 100_000
    canceled = tenant.http.post(f"/v1/batches/{batch['id']}:cancel", timeout=60)
    print(f"canceled: {canceled.elapsed.total_seconds():.2f} s")
    assert canceled.json()["counts"] == {"canceled": 200}
