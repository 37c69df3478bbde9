"""F19: PostgreSQL commits, and the answer is lost: everything happens once all the same."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.proxied import INTERVAL, ProxiedService, ServiceOn
from tests.support.proxy import LostAnswer
from tests.support.service import small_run_request
from tests.support.tenant import Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

TRAINER = "trainer-1"


@pytest.fixture(scope="module")
def service(service_on: ServiceOn) -> Iterator[ProxiedService]:
    with service_on(None) as service:
        service.start(TRAINER)
        yield service


def wait_lost(lost: LostAnswer) -> None:
    wait_until(lambda: lost.is_lost, deadline_s=120, what="the answer to be lost")


def ends_of(service: ProxiedService, run_id: str) -> list[str]:
    """How each attempt that trained the run ended, as its trainer saw it."""

    def lines(event: str) -> list[Json]:
        return [line for line in service.logged(TRAINER, event) if line["run_id"] == run_id]

    num_started = len(lines("child_started"))
    wait_until(lambda: len(lines("attempt_over")) == num_started, what="each attempt to be over")
    return [line["ended"] for line in lines("attempt_over")]


def test_a_submission_is_accepted_once(service: ProxiedService) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    request = small_run_request(service.datasets, max_train_steps=2)
    before = len(service.tenant.get("/v1/runs")["data"])
    lost = service.databases["api"].lose_answer(b"INSERT INTO runs", b"COMMIT")

    def send() -> httpx.Response:
        return service.tenant.http.post("/v1/runs", json=request, headers=headers)

    first = send()
    assert lost.is_lost
    assert (first.status_code, first.json()["code"]) == (503, "database_unavailable")
    assert int(first.headers["Retry-After"]) > 0
    second = send()
    assert second.status_code == 201
    assert second.headers["Idempotent-Replayed"] == "true"

    runs = service.tenant.get("/v1/runs")["data"]
    assert len(runs) == before + 1
    assert runs[0]["id"] == second.json()["id"]
    service.ended_once(runs[0]["id"])


def test_a_run_whose_claim_was_not_answered_is_trained_once(service: ProxiedService) -> None:
    # Parameters, unlike statements, are sent each time: here the id of the new attempt.
    lost = service.databases[TRAINER].lose_answer(b"att_", b"COMMIT")
    run_id = service.submit(max_train_steps=10)
    wait_lost(lost)

    first, _ = service.ended_once(run_id)

    assert (first["outcome"], first["last_step"]) == ("lost", 0)
    assert ends_of(service, run_id) == ["finished"]


def test_a_checkpoint_that_was_not_answered_is_committed_once(service: ProxiedService) -> None:
    step = f"/checkpoints/step-{INTERVAL:08d}/".encode()
    lost = service.databases[TRAINER].lose_answer(step, b"COMMIT")
    run_id = service.submit(max_train_steps=3 * INTERVAL)
    wait_lost(lost)

    assert len(service.ended_once(run_id)) == 1

    steps = [event["step"] for event in service.tenant.events(run_id, "run.checkpoint")]
    assert steps == [INTERVAL, 2 * INTERVAL, 3 * INTERVAL]
    assert ends_of(service, run_id) == ["finished"]


def test_a_result_that_was_not_answered_is_committed_once(service: ProxiedService) -> None:
    lost = service.databases[TRAINER].lose_answer(b"/result/", b"COMMIT")
    run_id = service.submit(max_train_steps=10)
    wait_lost(lost)

    assert len(service.ended_once(run_id)) == 1

    assert ends_of(service, run_id) == ["finished"]
