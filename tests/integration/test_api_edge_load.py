"""All hostile clients at once for 20 s, while others are served; and many watchers of events."""

import asyncio
import multiprocessing
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.domain.ledger import ChildEvent
from services.store import run_events
from services.store.database import Database
from tests.support.fleet import Fleet, children_of
from tests.support.service import database_of, new_tenant, push_unread, run_request
from tests.support.tenant import Tenant

pytestmark = pytest.mark.deep

HEADER_S, BODY_S, WRITE_S = 3, 5, 5
SLACK_S = 2
LOAD_S = 20
DRIPPERS, HALF_HEADS, IDLE, DEAF = 100, 50, 500, 50
WATCHERS, RECONNECTS, RUNS, EVENTS = 500, 1000, 10, 60


@pytest.fixture(scope="module")
def edge(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(
        fresh=True,
        REVERIE_HTTP_HEADER_S=str(HEADER_S),
        REVERIE_HTTP_BODY_S=str(BODY_S),
        REVERIE_HTTP_WRITE_S=str(WRITE_S),
    )
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def tenant(edge: Fleet) -> Tenant:
    return new_tenant(edge, "ada")


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    return push_unread(tenant)


@pytest.fixture
def store(edge: Fleet) -> Iterator[Database]:
    with database_of(edge) as database:
        yield database


def report(store: Database, run_id: str, steps: range, note: str = "") -> None:
    with store.transaction() as conn:
        events = [ChildEvent(type="step", step=n, data={"loss": 0.5, "note": note}) for n in steps]
        run_events.append(conn, run_id, events)


def resident_bytes(edge: Fleet) -> int:
    """Of all processes of the API; shared pages count once."""
    parent = edge.processes["api"].pid
    rollups = [
        Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (parent, *children_of(parent))
    ]
    return sum(
        int(line.split()[1]) << 10
        for rollup in rollups
        for line in rollup.splitlines()
        if line.startswith("Pss:")
    )


class Prober(threading.Thread):
    """Sends one GET after the other until it is told to stop."""

    def __init__(self, http: httpx.Client, path: str) -> None:
        super().__init__(daemon=True)
        self._http, self._path = http, path
        self._end = threading.Event()
        self.took_s: list[float] = []
        self.statuses: set[int] = set()
        self.start()

    def run(self) -> None:
        while not self._end.wait(0.02):
            started_s = time.monotonic()
            self.statuses.add(self._http.get(self._path).status_code)
            self.took_s.append(time.monotonic() - started_s)

    def stop(self) -> float:
        """The 99th percentile, in seconds."""
        self._end.set()
        self.join(30)
        return statistics.quantiles(self.took_s, n=100)[98]


def test_hostile_clients_do_not_stop_the_others(
    edge: Fleet, tenant: Tenant, datasets: dict[str, str], store: Database
) -> None:
    run_id = tenant.submit(run_request(datasets))
    for start in range(1, 2000, 100):
        report(store, run_id, range(start, start + 100), note="x" * 1000)  # 2 MB a reader
    other = new_tenant(edge, "grace")
    with ThreadPoolExecutor(80) as pool:  # every thread of the API has started
        list(pool.map(lambda _: httpx.get(f"{edge.url}/readyz", timeout=30), range(400)))
    before_bytes = resident_bytes(edge)
    health = Prober(httpx.Client(base_url=edge.url, timeout=10), "/healthz")
    lists = Prober(other.http, "/v1/runs")
    key = tenant.http.headers["Authorization"]
    # In a process of its own: its threads would slow the probes.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        attack = process.submit(attacked, edge.port, key, run_id).result()
    health_p99_s, lists_p99_s = health.stop(), lists.stop()
    grown_bytes = resident_bytes(edge) - before_bytes
    print(
        f"healthz p99 {health_p99_s * 1000:.0f} ms of {len(health.took_s)}, "
        f"lists p99 {lists_p99_s * 1000:.0f} ms of {len(lists.took_s)}, "
        f"bodies dropped {len(attack.bodies_s)} after {max(attack.bodies_s):.1f} s at most, "
        f"heads {len(attack.heads_s)} after {max(attack.heads_s):.1f} s, "
        f"idle kept {attack.idle_kept}, grown {grown_bytes / 1e6:.0f} MB"
    )
    assert health.statuses == lists.statuses == {200}
    assert health_p99_s < 0.1
    assert len(attack.bodies_s) >= DRIPPERS
    assert max(attack.bodies_s) < BODY_S + SLACK_S
    assert len(attack.heads_s) >= HALF_HEADS
    assert max(attack.heads_s) < HEADER_S + SLACK_S
    assert attack.idle_kept == IDLE
    assert edge.tail("api", 1 << 26).count("slow_reader_dropped") >= DEAF
    assert grown_bytes < 50e6


def attacked(port: int, key: str, run_id: str) -> "Attack":
    attack = Attack(port, key, run_id)
    asyncio.run(attack.run())
    return attack


class Attack:
    """Every kind of hostile client at once, each again as soon as it is dropped."""

    def __init__(self, port: int, key: str, run_id: str) -> None:
        self._port = port
        self._head = f"Host: reverie\r\nAuthorization: {key}\r\n"
        self._run_id = run_id
        self._end_s = 0.0
        self.bodies_s: list[float] = []
        self.heads_s: list[float] = []
        self.idle_kept = 0

    async def run(self) -> None:
        self._end_s = time.monotonic() + LOAD_S
        kinds: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (DRIPPERS, self._drip),
            (HALF_HEADS, self._send_half),
            (IDLE, self._idle),
            (DEAF, self._read_nothing),
        ]
        await asyncio.gather(*(kind() for count, kind in kinds for _ in range(count)))

    async def _drip(self) -> None:
        head = f"POST /v1/runs HTTP/1.1\r\n{self._head}Content-Length: 100000\r\n\r\n"
        while time.monotonic() < self._end_s:
            self.bodies_s.append(await self._until_dropped(head.encode(), b" "))

    async def _send_half(self) -> None:
        while time.monotonic() < self._end_s:
            self.heads_s.append(await self._until_dropped(b"GET / HTTP/1.1\r\nX: ", b"y"))

    async def _until_dropped(self, first: bytes, then: bytes) -> float:
        """Send ``first``, then ``then`` four times a second; the seconds until it is dropped."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        started_s = time.monotonic()
        writer.write(first)
        end = asyncio.create_task(reader.read())
        while not (await asyncio.wait([end], timeout=0.25))[0]:
            writer.write(then)
        took_s = time.monotonic() - started_s
        writer.close()
        end.exception()
        return took_s

    async def _idle(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = b"GET /healthz HTTP/1.1\r\nHost: reverie\r\n\r\n"
        writer.write(request)
        await reader.readuntil(b'"ok"}')
        await asyncio.sleep(self._end_s - time.monotonic())  # idle until the end
        writer.write(request)
        answer = await reader.readuntil(b'"ok"}')
        self.idle_kept += answer.startswith(b"HTTP/1.1 200 ")
        writer.close()

    async def _read_nothing(self) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self._port))
        request = (
            f"GET /v1/runs/{self._run_id}/events HTTP/1.1\r\n{self._head}"
            "Accept: text/event-stream\r\n\r\n"
        )
        await loop.sock_sendall(connection, request.encode())
        await asyncio.sleep(self._end_s - time.monotonic())  # reads nothing until the end
        connection.close()


def test_watchers_that_reconnect_see_every_event_once(
    edge: Fleet, tenant: Tenant, datasets: dict[str, str], store: Database
) -> None:
    run_ids = [tenant.submit(run_request(datasets)) for _ in range(RUNS)]
    watchers = [Watcher(edge, tenant, run_ids[n % RUNS], seed=n) for n in range(WATCHERS)]

    def write() -> None:
        for step in range(1, EVENTS + 1):
            for run_id in run_ids:
                report(store, run_id, range(step, step + 1))
        for run_id in run_ids:
            tenant.post(f"/v1/runs/{run_id}:cancel", {})

    async def watch() -> None:
        writing = asyncio.to_thread(write)
        await asyncio.gather(writing, *(each.watch() for each in watchers))

    asyncio.run(watch())
    assert sum(each.reconnects for each in watchers) == RECONNECTS
    expected = {run_id: [e["id"] for e in tenant.events(run_id)] for run_id in run_ids}
    for each in watchers:
        assert each.seen == expected[each.run_id]


class Watcher:
    """Reads a run's events to the end, and cuts its connection at two random events on the way."""

    def __init__(self, edge: Fleet, tenant: Tenant, run_id: str, *, seed: int) -> None:
        self._port = edge.port
        self._key = tenant.http.headers["Authorization"]
        self.run_id = run_id
        self.seen: list[int] = []
        self.reconnects = 0
        self._cuts = sorted(random.Random(seed).sample(range(2, EVENTS), RECONNECTS // WATCHERS))

    async def watch(self) -> None:
        is_over = False
        while not is_over:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            last = f"Last-Event-ID: {self.seen[-1]}\r\n" if self.seen else ""
            writer.write(
                f"GET /v1/runs/{self.run_id}/events HTTP/1.1\r\nHost: reverie\r\n{last}"
                f"Authorization: {self._key}\r\nAccept: text/event-stream\r\n\r\n".encode()
            )
            is_over = await self._read(reader)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        """Read to the next cut; whether the run is over."""
        while line := await asyncio.wait_for(reader.readline(), 60):
            if line.startswith(b"id: "):
                self.seen.append(int(line[4:]))
            elif line.startswith(b"event: run.canceled"):
                return True
            elif line == b"\n" and self._cuts and self.seen and self.seen[-1] >= self._cuts[0]:
                self._cuts.pop(0)
                self.reconnects += 1
                return False
        raise AssertionError(f"the stream ended after {self.seen[-1:]}")
