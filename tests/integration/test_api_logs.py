"""Logs and metrics over HTTP: pages, last lines, and a stream that misses and repeats nothing."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest

from services.domain.ledger import LOG_PIECE_BYTES, ChildEvent, Claim, Outcome, Printed
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase
from tests.support.service import database_of
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

SSE = {"Accept": "text/event-stream"}
_LEASE = timedelta(seconds=60)


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false")
    fleet.start_api()
    return fleet


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture
def tenant_db(store: Database) -> TenantDatabase:
    return TenantDatabase.new(store)


@pytest.fixture
def tenant(fleet: Fleet, tenant_db: TenantDatabase) -> Tenant:
    with tenant_db.database.transaction() as conn:
        key = new_api_key(conn, tenant_db.tenant_id)
    return Tenant(fleet.url, key)


class Printing:
    """Writes a log as a trainer does, without a trainer."""

    def __init__(self, ledger: PostgresLedger, claim: Claim) -> None:
        self._ledger, self._claim = ledger, claim
        self.start_byte = 0
        self.whole = ""

    def print(self, text: str) -> None:
        num_bytes = len(text.encode())
        piece = Printed(start_byte=self.start_byte, num_bytes=num_bytes, text=text)
        self._ledger.log(self._claim.run_id, self._claim.fence, piece)
        self.start_byte += num_bytes
        self.whole += text


def read_stream(
    tenant: Tenant, run_id: str, last_id: int | None, most: int | None = None, query: str = ""
) -> tuple[int, list[Json]]:
    """One connection's status and pieces; it is dropped after ``most`` of them."""
    found: list[Json] = []
    headers = SSE if last_id is None else {**SSE, "Last-Event-ID": str(last_id)}
    path = f"/v1/runs/{run_id}/logs{query}"
    with tenant.http.stream("GET", path, headers=headers, timeout=60) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == most:
                    break
        return stream.status_code, found


def test_a_log_is_read_in_pages_and_from_its_end(tenant: Tenant, tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    path = f"/v1/runs/{claim.run_id}/logs"
    assert tenant.get(path)["data"] == []
    printing = Printing(tenant_db.ledger, claim)
    for number in range(7):
        printing.print("".join(f"line {number}.{each}\n" for each in range(3)))

    pieces: list[Json] = []
    page = tenant.get(f"{path}?limit=3")
    pieces += page["data"]
    while page["has_more"]:
        page = tenant.get(f"{path}?limit=3&after={page['next_cursor']}")
        pieces += page["data"]
    assert "".join(piece["text"] for piece in pieces) == printing.whole
    assert {piece["attempt"] for piece in pieces} == {claim.fence}
    lines = printing.whole.splitlines(keepends=True)
    for tail in (1, 2, 3, 4, 20, 21, 22, 2000):
        page = tenant.get(f"{path}?tail={tail}")
        assert "".join(p["text"] for p in page["data"]) == "".join(lines[-tail:]), tail
        assert page["has_more"] is False
    assert tenant.http.get(f"{path}?tail=0").status_code == 422
    for accept in ("application/json", "text/event-stream"):
        both = tenant.http.get(f"{path}?tail=5&after=0", headers={"Accept": accept})
        assert (both.status_code, both.json()["errors"][0]["pointer"]) == (422, "query:tail")


def test_bytes_that_are_left_out_are_told(tenant: Tenant, tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    path = f"/v1/runs/{claim.run_id}/logs"
    for start, text in ((0, "first\n"), (1_000_006, "newest\n")):
        piece = Printed(start_byte=start, num_bytes=len(text), text=text)
        tenant_db.ledger.log(claim.run_id, claim.fence, piece)

    texts = [piece["text"] for piece in tenant.get(path)["data"]]
    assert texts == ["first\n", "[1,000,000 bytes are left out here]\nnewest\n"]
    (after,) = tenant.get(f"{path}?after=6")["data"]
    assert after["text"] == texts[1]
    assert (after["start_byte"], after["end_byte"]) == (1_000_006, 1_000_013)
    assert tenant.get(f"{path}?after=1000013")["data"] == []


def test_a_stream_over_many_connections_has_no_gap_and_no_repetition(
    tenant: Tenant, tenant_db: TenantDatabase
) -> None:
    numbers = random.Random(1)
    claim = tenant_db.held()
    printing = Printing(tenant_db.ledger, claim)

    def write() -> None:
        for number in range(60):
            size = numbers.choice([1, 40, 5_000, LOG_PIECE_BYTES - 20])
            printing.print(f"{number} é {'x' * size}\n")
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
        tenant.post(f"/v1/runs/{claim.run_id}:cancel", {})

    writer = threading.Thread(target=write)
    writer.start()
    found: list[Json] = []
    status, last_id = 200, None
    while status == 200:
        most = numbers.randrange(1, 12)
        status, pieces = read_stream(tenant, claim.run_id, last_id, most)
        found += pieces
        last_id = found[-1]["end_byte"] if found else None
    writer.join()

    assert status == 204
    assert "".join(piece["text"] for piece in found) == printing.whole
    assert read_stream(tenant, claim.run_id, last_id)[0] == 204
    _, again = read_stream(tenant, claim.run_id, None)
    assert again == found
    _, last = read_stream(tenant, claim.run_id, None, query="?tail=2")
    text = "".join(piece["text"] for piece in last)
    assert text == "".join(printing.whole.splitlines(keepends=True)[-2:])


def test_a_line_arrives_when_it_is_printed(tenant: Tenant, tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    printing = Printing(tenant_db.ledger, claim)
    found: list[str] = []

    def listen() -> None:
        with tenant.http.stream(
            "GET", f"/v1/runs/{claim.run_id}/logs", headers=SSE, timeout=60
        ) as stream:
            for line in stream.iter_lines():
                found.append(line)

    listener = threading.Thread(target=listen)
    listener.start()
    wait_until(lambda: found, what="the stream to be open")
    printing.print("hello\n")
    wait_until(lambda: "event: log" in found, what="the line")
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    tenant.post(f"/v1/runs/{claim.run_id}:cancel", {})
    listener.join(15)
    assert not listener.is_alive(), "the stream ends with the run"
    assert found[:4] == ["retry: 3000", "", "id: 6", "event: log"]


def test_metrics_are_named_and_reduced(tenant: Tenant, tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    path = f"/v1/runs/{claim.run_id}/metrics"
    empty = tenant.get(path)
    assert (empty["names"], empty["series"], empty["every_nth_event"]) == ([], [], 1)
    assert (empty["evaluations"], empty["clip_scores"]) == ([], [])
    events = [
        ChildEvent(type="step", step=step, data={"loss": step / 2, "learning_rate": None})
        for step in range(1, 11)
    ]
    tenant_db.ledger.event(claim.run_id, claim.fence, events)

    measured = {"name": "evaluation", "mean": 0.5, "low": 0.25, "high": 0.75, "images": 4}
    scores = {"mean": 0.25, "min": 0.125, "max": 0.5, "similarity_mean": 0.75}
    scored = {"name": "clip", "weights": "ema", **scores}
    evals = [ChildEvent(type="eval", step=10, data=each) for each in (measured, scored)]
    tenant_db.ledger.event(claim.run_id, claim.fence, evals)

    assert tenant.get(path)["names"] == ["loss"]
    assert tenant.get(path)["evaluations"] == [{"step": 10, "mean": 0.5, "low": 0.25, "high": 0.75}]
    assert tenant.get(path)["clip_scores"] == [{"step": 10, "weights": "ema", **scores}]
    body = tenant.get(f"{path}?names=loss,learning_rate&points=2")
    loss, rate = body["series"]
    assert loss == {
        "name": "loss",
        "first_step": [1, 6],
        "last_step": [5, 10],
        "count": [5, 5],
        "mean": [1.5, 4.0],
        "min": [0.5, 3.0],
        "max": [2.5, 5.0],
    }
    assert (rate["count"], rate["mean"]) == ([0, 0], [None, None])
    for bad in ("names=", "names=a,,b", "names=loss%20", "points=0", "points=1001"):
        assert tenant.http.get(f"{path}?{bad}").status_code == 422, bad


def test_attempts_are_listed_newest_first(tenant: Tenant, tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    path = f"/v1/runs/{claim.run_id}/attempts"
    Printing(tenant_db.ledger, claim).print("hello\n")
    (only,) = tenant.get(path)["data"]
    assert (only["fence"], only["outcome"], only["log_start_byte"]) == (1, None, 0)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    for _ in range(2):
        tenant_db.due_now(claim.run_id)
        again = tenant_db.ledger.claim(claim.run_id, worker_id=tenant_db.worker(), lease=_LEASE)
        assert again is not None
        tenant_db.ledger.hand_back(again.run_id, again.fence, Outcome.STOPPED, None)
    first = tenant.get(f"{path}?limit=2")
    rest = tenant.get(f"{path}?limit=2&after={first['next_cursor']}")
    assert [[a["fence"] for a in page["data"]] for page in (first, rest)] == [[3, 2], [1]]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def command(fleet: Fleet, tenant: Tenant, *args: str) -> subprocess.Popen[str]:
    key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "runs", *args],
        env={**os.environ, "REVERIE_URL": fleet.url, "REVERIE_API_KEY": key},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_commands_follow_the_log_and_draw_the_metrics(
    fleet: Fleet, tenant: Tenant, tenant_db: TenantDatabase
) -> None:
    claim = tenant_db.held()
    printing = Printing(tenant_db.ledger, claim)
    printing.print("one\ntwo\n\x1b[31mthree\x1b[0m\n")
    following = command(fleet, tenant, "logs", claim.run_id, "--tail", "2", "--follow")
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in range(2)] == ["two\n", "three\n"]
    printing.print("four\n")
    assert following.stdout.readline() == "four\n"
    events = [ChildEvent(type="step", step=n, data={"loss": n / 4}) for n in range(1, 5)]
    for step, mean in ((0, 0.75), (4, 0.625)):
        data = {"name": "evaluation", "mean": mean, "low": 0.5, "high": None}
        events.append(ChildEvent(type="eval", step=step, data=data))
    scored = {"name": "clip", "weights": "base", "mean": 0.3125, "min": 0.3, "max": 0.4}
    events.append(ChildEvent(type="eval", step=0, data=scored))
    tenant_db.ledger.event(claim.run_id, claim.fence, events)
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    tenant.post(f"/v1/runs/{claim.run_id}:cancel", {})
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out, err) == (0, "", "")

    asked = {
        "drawn": ("metrics", claim.run_id),
        "csv": ("metrics", claim.run_id, "--csv", "--points", "2"),
        "listed": ("metrics", claim.run_id, "--names", "?"),
        "unknown": ("metrics", claim.run_id, "--names", "los"),
    }
    started = {name: command(fleet, tenant, *args) for name, args in asked.items()}
    told = {
        name: (*each.communicate(timeout=60), each.returncode) for name, each in started.items()
    }
    assert "loss  ▁▃▆█" in told["drawn"][1]
    assert "evaluation loss  █▁" in told["drawn"][1]
    assert "CLIP score of base weights  ▁" in told["drawn"][1]
    assert "0.3125" in told["drawn"][0]
    assert "0.25" in told["drawn"][0]
    assert "0.625" in told["drawn"][0]
    assert told["csv"][0].splitlines() == [
        "metric,first_step,last_step,count,mean,min,max",
        "loss,1,2,2,0.375,0.25,0.5",
        "loss,3,4,2,0.875,0.75,1.0",
    ]
    assert told["listed"][0].split() == ["metric", "loss"]
    assert told["unknown"][2] == 1
    assert "has no los; it has loss" in told["unknown"][1]


def test_another_tenant_finds_nothing(
    fleet: Fleet, tenant_db: TenantDatabase, store: Database
) -> None:
    claim = tenant_db.held()
    Printing(tenant_db.ledger, claim).print("hello\n")
    other = tenant_db.neighbour()
    with store.transaction() as conn:
        key = new_api_key(conn, other.tenant_id)
    with httpx.Client(base_url=fleet.url, headers={"Authorization": f"Bearer {key}"}) as http:
        for rest in (
            "logs",
            "logs?tail=3",
            "metrics?names=loss",
            "attempts",
            "samples",
            "artifacts",
            "artifacts/result/card.json",
        ):
            answer = http.get(f"/v1/runs/{claim.run_id}/{rest}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), rest
        answer = http.get(f"/v1/runs/{claim.run_id}/logs", headers=SSE)
        assert answer.status_code == 404
