"""Traces over rings, what a receiver that does not work costs, and what is off by default."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from services.settings.env import SettingsError
from services.traces import spans
from services.traces.sending import BATCH, MOST_WAITING, open_tracer
from services.traces.setup import start_tracing
from tests.integration.trainer_supervisor_host import TrainerHost, open_host
from tests.support.fleet import Fleet
from tests.support.otlp import Receiver, otlp_receiver
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.scripted_fleet import ScriptedFleet, scripted_fleet
from tests.support.service import new_tenant
from tests.support.waiting import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


@pytest.fixture
def fleet(
    host: TrainerHost, redis_server: RedisServer, receiver: Receiver
) -> Iterator[ScriptedFleet]:
    with scripted_fleet(host, redis_server) as fleet:
        fleet.env["REVERIE_OTLP_ENDPOINT"] = receiver.url
        host.do(f"UPDATE runs SET traceparent = '{PARENT}' WHERE run_id = %(run_id)s")
        yield fleet


@pytest.fixture
def traced() -> Iterator[Callable[[str], None]]:
    """Turns tracing on in this process, with an endpoint, until the test ends."""
    with ExitStack() as opened:

        def turn_on(endpoint: str) -> None:
            tracer = open_tracer("test", endpoint)
            opened.callback(tracer.close)
            opened.callback(spans.use, None)
            spans.use(tracer)

        yield turn_on


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("reverie_spans_total", {"outcome": outcome}) or 0.0


def end(fleet: Fleet) -> float:
    """Stop every process as an operator would; how long the slowest took."""
    started_s = time.monotonic()
    for name in fleet.processes:
        fleet.signal(name, signal.SIGTERM)
    assert {fleet.wait(name) for name in fleet.processes} == {0}
    return time.monotonic() - started_s


def test_rings_the_trainer_its_child_and_results_go_on_with_a_stored_trace(
    host: TrainerHost, fleet: ScriptedFleet, receiver: Receiver
) -> None:
    for name in ("dispatcher", "results"):
        fleet.start(name)
    fleet.start_trainer("trainer-1", "well")
    wait_until(lambda: host.run()["status"] == "succeeded", what="the result")
    wait_until(lambda: receiver.named("publish"), what="the try to publish")
    end(fleet)

    assert {each.trace_id for each in receiver.spans} == {TRACE}
    assert {each.name: each.service for each in receiver.spans} == {
        "ring trainer": "reverie-dispatcher",
        "claim": "reverie-trainer",
        "prepare": "reverie-trainer",
        "training process: training": "reverie-trainer-child",
        "commit checkpoint": "reverie-trainer",
        "commit result": "reverie-trainer",
        "attempt": "reverie-trainer",
        "ring results": "reverie-dispatcher",
        "publish": "reverie-results",
    }
    (claim,) = receiver.named("claim")
    assert claim.facts["reverie.fence"] == 1
    (published,) = receiver.named("publish")
    assert published.facts["error.type"] == "result_without_card"


@pytest.mark.deep
def test_a_receiver_that_hangs_delays_neither_a_run_nor_the_end_of_a_process(
    host: TrainerHost, fleet: ScriptedFleet, receiver: Receiver
) -> None:
    receiver.goes_on.clear()
    fleet.start("dispatcher")
    fleet.start_trainer("trainer-1", "well")

    wait_until(lambda: host.run()["status"] == "succeeded", what="the result")
    wait_until(lambda: receiver.num_requests > 0, what="spans that hang")
    assert end(fleet) < 20
    assert host.attempts()[0][0] == "finished"
    assert receiver.spans == []


def make_spans(num_spans: int) -> dict[str, float]:
    """Make spans, none of which may wait; returns what was counted before, by outcome."""
    before = {outcome: count(outcome) for outcome in ("sent", "failed", "dropped")}
    slowest_s = 0.0
    with spans.continued(PARENT):
        for _ in range(num_spans):
            began_s = time.monotonic()
            with spans.span("step"):
                pass
            slowest_s = max(slowest_s, time.monotonic() - began_s)
    assert slowest_s < 1  # and not the 5 s of one try
    return before


def test_spans_are_dropped_and_counted_while_a_receiver_hangs(
    receiver: Receiver, traced: Callable[[str], None]
) -> None:
    receiver.goes_on.clear()
    traced(receiver.url)
    before = make_spans(3 * MOST_WAITING)
    dropped = count("dropped") - before["dropped"]
    assert 2 * MOST_WAITING - BATCH <= dropped <= 2 * MOST_WAITING
    assert count("sent") == before["sent"]
    receiver.goes_on.set()  # so that nothing is left to be counted in the next test


@pytest.mark.parametrize("how", ["refuses", "fails"])
def test_spans_that_are_not_taken_are_counted(
    how: str, receiver: Receiver, traced: Callable[[str], None]
) -> None:
    receiver.status = 400
    traced(f"http://127.0.0.1:{free_port()}" if how == "refuses" else receiver.url)
    before = make_spans(BATCH)
    wait_until(lambda: count("failed") - before["failed"] == BATCH, what="the count")
    assert (count("sent"), count("dropped")) == (before["sent"], before["dropped"])


def test_a_trace_that_is_not_sampled_goes_on_and_is_not_sent(
    receiver: Receiver, traced: Callable[[str], None]
) -> None:
    traced(receiver.url)
    with spans.continued(NOT_SAMPLED), spans.span("claim") as claiming:
        assert claiming.traceparent is not None
        assert claiming.traceparent.endswith("-00")
    with spans.continued(PARENT), spans.span("claim") as claiming:
        assert claiming.trace_id == TRACE
    with spans.span("of no trace") as made:
        assert made.traceparent is None
    with spans.continued("no traceparent"), spans.span("of no trace") as made:
        assert spans.current_traceparent() is None
    wait_until(lambda: receiver.spans, what="the sampled span")
    assert [each.name for each in receiver.spans] == ["claim"]


def test_an_error_is_sent_by_its_class_without_its_message(
    receiver: Receiver, traced: Callable[[str], None]
) -> None:
    traced(receiver.url)
    with pytest.raises(ValueError), spans.continued(PARENT), spans.span("prepare"):  # noqa: PT011
        raise ValueError("a caption of a tenant")
    (sent,) = wait_until(lambda: receiver.spans, what="the span")
    assert (sent.is_error, sent.facts) == (True, {"error.type": "ValueError"})
    assert b"caption" not in receiver.bodies[0]


@pytest.mark.deep
def test_nothing_that_makes_or_sends_spans_is_imported_unless_tracing_is_on(
    host: TrainerHost, redis_server: RedisServer
) -> None:
    with scripted_fleet(host, redis_server) as fleet:
        fleet.env["PYTHONPROFILEIMPORTTIME"] = "1"  # each import is a line of the log
        for name in ("api", "dispatcher", "results", "cache_builder"):
            fleet.start(name)
        fleet.start_trainer("trainer-1", "well")
        fleet.wait_ready()
        wait_until(lambda: host.run()["status"] == "succeeded", what="the result")
        builder = fleet.home / "cache_builder.log"
        wait_until(lambda: "indexer_up" in builder.read_text(), what="the indexer")
        logs = {name: (fleet.home / f"{name}.log").read_text() for name in fleet.processes}

    assert all("services.traces.spans" in text for text in logs.values())
    # FastAPI and redis-py import other parts of OpenTelemetry where it is installed.
    for module in ("services.traces.sending", "opentelemetry.sdk.trace", "opentelemetry.exporter"):
        assert [name for name, text in logs.items() if module in text] == []


def test_an_endpoint_without_opentelemetry_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "services.traces.sending")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"reverie\[traces\]"):
        start_tracing("api", "http://127.0.0.1:4318")


def test_a_training_process_starts_without_opentelemetry() -> None:
    program = (
        "import sys, trainer_core.commands.train;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.deep
def test_a_receiver_that_hangs_does_not_delay_requests(
    fleet_of: Callable[..., Fleet], receiver: Receiver
) -> None:
    receiver.goes_on.clear()
    took_s: dict[str, list[float]] = {"off": [], "hanging": []}
    fleets = {"off": fleet_of(), "hanging": fleet_of(REVERIE_OTLP_ENDPOINT=receiver.url)}
    tenants: dict[str, httpx.Client] = {}
    for name, fleet in fleets.items():
        fleet.start_api()
        tenants[name] = new_tenant(fleet, "ada").http
    for _ in range(400):  # in turn, so that both meet the same load of the machine
        for name, http in tenants.items():
            began_s = time.monotonic()
            assert http.post("/v1/runs", json={}).status_code == 422
            took_s[name].append(time.monotonic() - began_s)

    assert receiver.num_requests > 0
    p99_s = {name: sorted(each)[int(len(each) * 0.99)] for name, each in took_s.items()}
    assert p99_s["hanging"] < 1.5 * p99_s["off"] + 0.02, p99_s
