"""Creating POSTs hold no transaction while they work, and happen once however often they are sent.

The API runs in this process, so that a test can stop it in the middle of planning.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.places import REQUESTS_PER_TENANT
from services.api.runs import planning
from services.domain.errors import Problem
from services.settings.env import Settings
from services.store import datasets, idempotency, tenants
from services.store.database import Database
from services.store.datasets import NewFile
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.service import run_request
from tests.support.verifying import end_verification
from trainer_core.config.plan.problems import PlanError
from trainer_core.config.plan.problems import Problem as PlanProblem

WAIT_S = 20.0


class Paused:
    """Stands in for a function: the first call waits in the middle, the others do not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_first = threading.Lock()
        self.is_waiting = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_first.acquire(blocking=False):
            self.is_waiting.set()
            assert self.go_on.wait(WAIT_S)
        return self._function(*args, **kwargs)


class Service:
    """The API in this process over a fresh database, with one tenant and one dataset."""

    def __init__(self, env: dict[str, str]) -> None:
        self.url = env["REVERIE_DATABASE_URL"]
        self.database = Database(self.url, max_size=2)
        file = NewFile(path="a.jpg", media="image", size_bytes=1, sha256="a" * 64)
        with self.database.transaction() as conn:
            self.tenant_id = tenants.create_tenant(conn, "ada")
            api_key = new_api_key(conn, self.tenant_id)
            dataset = datasets.create(conn, self.tenant_id, "photos", [file])
        self.dataset_id = dataset.dataset_id
        self.request = run_request(dict.fromkeys(("photos", "held-out"), self.dataset_id))
        headers = {"Authorization": f"Bearer {api_key}"}
        self.http = TestClient(create_app(Settings.from_env(env)), headers=headers)

    def submit(self, key: str) -> httpx.Response:
        return self.http.post("/v1/runs", json=self.request, headers={"Idempotency-Key": key})

    def run_ids(self) -> list[str]:
        return [run["id"] for run in self.http.get("/v1/runs").json()["data"]]

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def reject(self) -> None:
        with self.database.transaction() as conn:
            datasets.complete(conn, self.tenant_id, self.dataset_id)
            problem = Problem(pointer="a.jpg", code="bad_image", message="It is no image.")
            end_verification(conn, self.tenant_id, self.dataset_id, problems=[problem])

    def delete(self) -> None:
        self.sql("DELETE FROM dataset_files")
        self.sql("DELETE FROM datasets")


@pytest.fixture
def service(fleet_of: Callable[..., Fleet]) -> Iterator[Service]:
    service = Service(fleet_of().env)
    with service.http:
        yield service
    service.database.close()


def test_planning_holds_no_transaction_and_blocks_no_other_request(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = Paused(planning.import_run)
    monkeypatch.setattr(planning, "import_run", paused)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.submit, "same")
        assert paused.is_waiting.wait(WAIT_S)
        open_transactions = service.sql(
            "SELECT query FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        second = service.submit("same")
        paused.go_on.set()
        first = waiting.result(WAIT_S)

    assert open_transactions == []
    assert (second.status_code, first.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in second.headers
    assert first.headers["Idempotent-Replayed"] == "true"
    assert first.json() == second.json()
    assert service.run_ids() == [second.json()["id"]]


def test_twenty_posts_that_plan_at_once_make_one_run(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many as a process lets one tenant have at work at once; the others wait.
    import_run, all_are_planning = planning.import_run, threading.Barrier(REQUESTS_PER_TENANT)

    def together(**kwargs: Any) -> Any:
        all_are_planning.wait(WAIT_S)
        return import_run(**kwargs)

    monkeypatch.setattr(planning, "import_run", together)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(service.submit, ["same"] * 20))

    assert {answer.status_code for answer in answers} == {201}
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert service.run_ids() == [answers[0].json()["id"]]
    assert service.sql("SELECT count(*) FROM events") == [(1,)]


def test_a_stored_response_is_replayed_without_planning(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service.submit("same")
    service.reject()
    monkeypatch.delattr(planning, "import_run")

    again = service.submit("same")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.json()) == (201, first.json())


def test_a_request_that_is_refused_after_its_twin_succeeded_gets_the_stored_response(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_run = planning.import_run

    def refuse(**kwargs: Any) -> Any:
        monkeypatch.setattr(planning, "import_run", import_run)
        problem = PlanProblem(pointer="/config", code="bad_value", message="It is too late.")
        raise PlanError([problem])

    paused = Paused(refuse)

    def pause_the_first(**kwargs: Any) -> Any:
        return import_run(**kwargs) if paused.is_waiting.is_set() else paused(**kwargs)

    monkeypatch.setattr(planning, "import_run", pause_the_first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.submit, "same")
        assert paused.is_waiting.wait(WAIT_S)
        second = service.submit("same")
        paused.go_on.set()
        first = waiting.result(WAIT_S)

    assert (second.status_code, first.status_code) == (201, 201)
    assert first.headers["Idempotent-Replayed"] == "true"
    assert first.json() == second.json()


@pytest.mark.parametrize(
    ("change", "code", "error"),
    [
        (Service.reject, "dataset_rejected", "dataset_rejected"),
        (Service.delete, "invalid_plan", "not_found"),
    ],
)
def test_a_dataset_that_changes_while_its_run_is_planned_is_noticed(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Service], None],
    code: str,
    error: str,
) -> None:
    paused = Paused(planning.import_run)
    monkeypatch.setattr(planning, "import_run", paused)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.submit, "same")
        assert paused.is_waiting.wait(WAIT_S)
        change(service)
        paused.go_on.set()
        answer = waiting.result(WAIT_S)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert {(e["pointer"], e["code"]) for e in answer.json()["errors"]} == {
        ("/datasets/photos", error),
        ("/datasets/held-out", error),
    }
    assert service.run_ids() == []
    assert service.sql("SELECT key FROM idempotency_keys") == []


@pytest.mark.parametrize(("room", "step"), [(planning, "import_run"), (idempotency, "finish")])
def test_a_failure_between_the_steps_leaves_nothing_behind(
    service: Service, monkeypatch: pytest.MonkeyPatch, room: object, step: str
) -> None:
    with monkeypatch.context() as broken:
        broken.delattr(room, step)
        failed = service.submit("same")
    left = service.sql("SELECT run_id FROM runs UNION SELECT key FROM idempotency_keys")
    again = service.submit("same")

    assert (failed.status_code, failed.json()["code"]) == (500, "internal_error")
    assert left == []
    assert again.status_code == 201
    assert "Idempotent-Replayed" not in again.headers
