"""Runs made from others with changes, and what differs between two runs."""

from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.service import new_tenant, push_unread, run_request
from tests.support.tenant import Json, Tenant


@pytest.fixture(scope="module")
def tenant(fleet_of: Callable[..., Fleet]) -> Tenant:
    fleet = fleet_of()
    fleet.start_api()
    return new_tenant(fleet, "ada")


@pytest.fixture(scope="module")
def run_id(tenant: Tenant) -> str:
    request = run_request(push_unread(tenant), seed=3)
    config = request["config"]
    config["--caption_dropout_probability"] = config.pop("caption_dropout_probability") or 0.5
    return tenant.submit({**request, "metadata": {"who": "ada"}, "priority": "low"})


def clone(tenant: Tenant, run_id: str, changes: Json, **headers: str) -> Json:
    return tenant.post(f"/v1/runs/{run_id}:clone", {"changes": changes}, **headers)


def options(differences: list[Json]) -> dict[str, tuple[object, object]]:
    return {each["option"]: (each["before"], each["after"]) for each in differences}


def test_a_clone_is_a_new_run_with_its_changes_and_says_what_differs(
    tenant: Tenant, run_id: str
) -> None:
    changes = {
        "config": {"learning_rate": 0.001, "caption_dropout_probability": 0.25},
        "metadata": {"who": None, "why": "slower"},
        "priority": "high",
    }
    answer = tenant.http.post(f"/v1/runs/{run_id}:clone", json={"changes": changes})

    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == made["links"]["self"] == f"/v1/runs/{made['id']}"
    assert made["id"] != run_id
    assert made["parent_run_id"] == run_id
    assert (made["metadata"], made["priority"]) == ({"why": "slower"}, "high")
    request = options(made["diff"]["request"])
    assert request.keys() == {
        "/config/learning_rate",
        "/config/--caption_dropout_probability",  # under the name that the request has
        "/metadata/who",
        "/metadata/why",
        "/priority",
    }
    assert request["/config/--caption_dropout_probability"] == (0.5, 0.25)
    plan = options(made["diff"]["plan"])
    assert plan["/identity/optimizer/learning_rate"][1] == 0.001
    assert plan["/identity/caption_dropout_probability"] == (0.5, 0.25)
    shown = tenant.run(made["id"])
    assert (shown["status"], shown["parent_run_id"]) == ("queued", run_id)


def test_a_clone_without_changes_is_the_same_plan(tenant: Tenant, run_id: str) -> None:
    made = clone(tenant, run_id, {})
    assert made["diff"] == {"request": [], "plan": []}
    assert made["plan_digest"] == tenant.run(run_id)["plan_digest"]


def test_one_key_makes_one_clone(tenant: Tenant, run_id: str) -> None:
    changes = {"config": {"seed": 8}}
    made = [clone(tenant, run_id, changes, **{"Idempotency-Key": "once"}) for _ in range(5)]
    assert all(each == made[0] for each in made)
    listed = tenant.get("/v1/runs?limit=100")["data"]
    assert sum(each["id"] == made[0]["id"] for each in listed) == 1
    other = tenant.http.post(
        f"/v1/runs/{run_id}:clone",
        json={"changes": {"config": {"seed": 9}}},
        headers={"Idempotency-Key": "once"},
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("changes", "code", "pointers"),
    [
        (
            {"config": {"seed": "x", "optimizer": "y"}},
            "invalid_plan",
            {"/config/seed", "/config/optimizer"},
        ),
        ({"surprise": 1}, "invalid_request", {"/surprise"}),
        ({"config": None}, "invalid_request", {"/config"}),
        ({"datasets": {"photos": None}}, "invalid_plan", {"/datasets/photos"}),
        ({"datasets": {"photos": "ds_" + "0" * 32}}, "invalid_plan", {"/datasets/photos"}),
    ],
)
def test_wrong_changes_are_listed_by_where_they_end_up(
    tenant: Tenant, run_id: str, changes: Json, code: str, pointers: set[str]
) -> None:
    answer = tenant.http.post(f"/v1/runs/{run_id}:clone", json={"changes": changes})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert {each["pointer"] for each in answer.json()["errors"]} == pointers


def test_two_runs_are_compared(tenant: Tenant, run_id: str) -> None:
    other = clone(tenant, run_id, {"config": {"max_train_steps": 77}})["id"]
    found = tenant.get(f"/v1/runs/{run_id}/diff?against={other}")
    assert (found["before"], found["after"]) == (run_id, other)
    assert options(found["request"]) == {"/config/max_train_steps": (30, 77)}
    assert options(found["plan"])["/identity/max_train_steps"] == (30, 77)
    back = tenant.get(f"/v1/runs/{other}/diff?against={run_id}")
    assert options(back["request"]) == {"/config/max_train_steps": (77, 30)}
    assert tenant.http.get(f"/v1/runs/{run_id}/diff").status_code == 422
    nobody = tenant.http.get(f"/v1/runs/{run_id}/diff?against=run_{'0' * 32}")
    assert nobody.status_code == 404
