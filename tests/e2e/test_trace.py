"""One trace a run: an OTLP receiver sees it over HTTP, rings, trainer, its child and results."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.canaries import Canaries
from tests.support.fleet import Fleet
from tests.support.otlp import ReceivedSpan, Receiver, otlp_receiver
from tests.support.service import database_of, new_tenant, small_photos, small_run_request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

STRANGER = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADER = f"00-{STRANGER}-00f067aa0ba902b7-01"
PASSWORD = "otlp-canary-7f3a90c1"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet], receiver: Receiver) -> Fleet:
    fleet = fleet_of(
        REVERIE_OTLP_ENDPOINT=receiver.url,
        REVERIE_LOG_FORMAT="json",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Basic%20{PASSWORD}",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
    )
    fleet.start_all()
    return fleet


def trace_of(fleet: Fleet, run_id: str) -> str:
    with database_of(fleet) as database, database.transaction() as conn:
        row = conn.execute("SELECT traceparent FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    assert row is not None
    return str(row[0]).split("-")[1]


def by_name(spans: list[ReceivedSpan]) -> dict[str, ReceivedSpan]:
    return {each.name: each for each in spans}


def test_a_run_is_one_trace_from_its_request_to_its_publication(
    fleet: Fleet, receiver: Receiver, tmp_path: Path
) -> None:
    tenant = new_tenant(fleet, "ada")
    photos = tenant.push_folder(small_photos(tmp_path / "quokka-canary-folder"))
    request = small_run_request({"photos": photos}, max_train_steps=2, checkpoint_step_interval=1)
    run_id = str(tenant.post("/v1/runs", request, traceparent=HEADER)["id"])
    tenant.run(run_id)
    assert tenant.wait_over(run_id, deadline_s=180)["status"] == "succeeded"
    published = tenant.wait_published(run_id)
    trace_id = trace_of(fleet, run_id)
    wait_until(
        lambda: {"publish", "attempt"} <= by_name(receiver.of_trace(trace_id)).keys(),
        what="the last spans",
    )

    spans = receiver.of_trace(trace_id)
    found, by_id = by_name(spans), {each.span_id: each for each in spans}
    services = {name: each.service for name, each in found.items()}
    assert services == {
        "POST /v1/runs": "reverie-api",
        "ring indexer": "reverie-dispatcher",
        "admit": "reverie-indexer",
        "ring trainer": "reverie-dispatcher",
        "claim": "reverie-trainer",
        "prepare": "reverie-trainer",
        "training process: loading": "reverie-trainer-child",
        "training process: training": "reverie-trainer-child",
        "training process: checkpointing": "reverie-trainer-child",
        "training process: sampling": "reverie-trainer-child",
        "training process: finalizing": "reverie-trainer-child",
        "commit checkpoint": "reverie-trainer",
        "commit result": "reverie-trainer",
        "attempt": "reverie-trainer",
        "ring results": "reverie-dispatcher",
        "publish": "reverie-results",
    }
    parents = {name: by_id[each.parent_id].name for name, each in found.items() if each.parent_id}
    assert parents.pop("ring indexer") == parents.pop("ring trainer") == "POST /v1/runs"
    assert parents.pop("admit") == "ring indexer"
    assert parents.pop("claim") == "ring trainer"
    assert parents.pop("ring results") == "commit result"
    assert parents.pop("publish") == "ring results"
    assert set(parents.values()) == {"claim"}
    assert not any(each.is_error for each in spans)
    assert all(each.started_ns <= each.ended_ns for each in spans)
    assert found["publish"].facts["reverie.publication_id"] == published["id"]
    assert found["claim"].facts["reverie.run_id"] == run_id
    assert found["attempt"].facts["reverie.outcome"] == "finished"
    steps = [each.facts["reverie.step"] for each in spans if each.name == "commit checkpoint"]
    assert steps == [1, 2]
    assert receiver.paths == {"/v1/traces"}
    assert {each["authorization"] for each in receiver.headers} == {f"Basic {PASSWORD}"}

    # The client's own trace is linked, and decides nothing.
    assert found["POST /v1/runs"].links == (STRANGER,)
    assert receiver.of_trace(STRANGER) == []
    assert not [each for each in receiver.spans if each.name.startswith("GET")]

    for name, event in (
        ("api", "request"),
        ("dispatcher", "run_offered"),
        ("cache_builder", "run_admitted"),
        ("trainer-1", "checkpoint_committed"),
        ("results", "publication_succeeded"),
    ):
        lines = [
            json.loads(line)
            for line in (fleet.home / f"{name}.log").read_text().splitlines()
            if line.startswith("{")
        ]
        assert trace_id in [each.get("trace_id") for each in lines if each["event"] == event], name

    texts = ["astronaut", "espresso", "quokka", request["config"]["validation_prompt"], "photos"]
    texts += [tenant.http.headers["authorization"].split()[1], fleet.env["REVERIE_SIGNING_KEY"]]
    texts += ["signature", str(fleet.home), PASSWORD, "127.0.0.1"]
    sent = Canaries(texts).in_bytes(b"\n".join(receiver.bodies))
    assert sent == set()


def test_a_request_without_a_valid_key_is_not_traced(fleet: Fleet, receiver: Receiver) -> None:
    refused = httpx.post(f"{fleet.url}/v1/runs", json={}, headers={"traceparent": HEADER})
    tenant = new_tenant(fleet, "bob")
    wrong = tenant.http.post("/v1/runs", json={}, headers={"traceparent": "00-no-trace-01"})

    assert (refused.status_code, wrong.status_code) == (401, 422)
    spans = wait_until(
        lambda: [
            each
            for each in receiver.named("POST /v1/runs")
            if each.facts["reverie.request_id"] == wrong.headers["x-request-id"]
        ],
        what="the span of the request that was refused",
    )
    assert [each.links for each in spans] == [()]
    assert spans[0].facts["error.type"] == "RequestValidationError"
    ids = [each.facts["reverie.request_id"] for each in receiver.named("POST /v1/runs")]
    assert refused.headers["x-request-id"] not in ids


def test_the_end_of_a_process_sends_what_is_left(fleet: Fleet, receiver: Receiver) -> None:
    tenant = new_tenant(fleet, "eve")
    answer = tenant.http.post("/v1/runs", json={})
    fleet.signal("api", signal.SIGTERM)

    assert fleet.wait("api") == 0
    ids = [each.facts["reverie.request_id"] for each in receiver.named("POST /v1/runs")]
    assert answer.headers["x-request-id"] in ids
