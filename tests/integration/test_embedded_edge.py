"""Hostile clients of `reverie up`: the embedded service has the same bounds as any other."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.embedded.service import EmbeddedService
from tests.support.hostile_requests import CHUNKED, HEALTH, REFUSED, get, post
from tests.support.ports import free_port
from tests.support.raw_http import Answer, connect, read, talk
from tests.support.waiting import wait_until

DEADLINE_S = 0.5
CLIENTS = 60
ENV = {
    "REVERIE_HTTP_HEADER_S": str(DEADLINE_S),
    "REVERIE_HTTP_BODY_S": str(DEADLINE_S),
    "REVERIE_HTTP_WRITE_S": str(DEADLINE_S),
    "REVERIE_HTTP_CONNECTIONS_PER_CLIENT": str(CLIENTS),
    "REVERIE_API_PROCESSES": "1",
}

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def service() -> Iterator[EmbeddedService]:
    with tempfile.TemporaryDirectory(prefix="reverie-") as folder:
        # Under root the servers run as another user, who must be able to enter the home.
        Path(folder).chmod(0o711)
        with EmbeddedService(Path(folder) / "home", port=free_port(), env=ENV) as running:
            yield running


@pytest.fixture(scope="module")
def port(service: EmbeddedService) -> int:
    found = urlsplit(service.url).port
    assert found is not None
    return found


def log_of(service: EmbeddedService) -> str:
    return (service.home.logs / "api.log").read_text(errors="replace")


def test_what_can_be_read_in_two_ways_is_refused(port: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda each: talk(port, each[0], within_s=5), REFUSED.values())
        found = dict(zip(REFUSED, answers, strict=True))
    assert {name: (each.statuses, each.is_closed) for name, each in found.items()} == {
        name: ([status], True) for name, (_, status) in REFUSED.items()
    }


def test_half_sent_heads_and_dripping_bodies_end_while_others_are_answered(
    service: EmbeddedService, port: int
) -> None:
    body = post(
        b"Authorization: Bearer " + service.api_key.encode(),
        b"Content-Type: application/json",
        CHUNKED,
        body=b"fffff\r\n",
    )
    took_s = []
    with ThreadPoolExecutor(CLIENTS) as pool, httpx.Client(base_url=service.url) as other:
        heads = [pool.submit(drip, port, HEALTH + b"X: ") for _ in range(CLIENTS // 3)]
        bodies = [pool.submit(drip, port, body) for _ in range(CLIENTS // 3)]
        for _ in range(20):
            started_s = time.monotonic()
            assert other.get("/healthz").status_code == 200
            took_s.append(time.monotonic() - started_s)
        for each in heads + bodies:
            answer = each.result()
            assert answer.is_closed
            assert answer.statuses in ([408], [])  # a reset may lose the answer
            assert answer.took_s < 10 * DEADLINE_S
    assert statistics.median(took_s) < 0.1


def drip(port: int, start: bytes) -> Answer:
    """Send ``start`` and then a byte now and then, until the connection is closed."""
    started_s = time.monotonic()
    with connect(port) as connection:
        connection.sendall(start)
        while time.monotonic() - started_s < 20 * DEADLINE_S:
            try:
                connection.sendall(b"y")
            except OSError:
                break
            answer = read(connection, within_s=0.1)
            if answer.raw or answer.is_closed:
                rest = b"" if answer.is_closed else read(connection, within_s=5).raw
                return Answer(answer.raw + rest, True, time.monotonic() - started_s)
    return Answer(b"", True, time.monotonic() - started_s)


def test_one_address_cannot_take_all_connections(port: int) -> None:
    held = [connect(port) for _ in range(CLIENTS)]
    try:
        for each in held:
            each.sendall(get())
            assert each.recv(65536).startswith(b"HTTP/1.1 200")
        assert talk(port, get(), within_s=5).statuses == [429]
    finally:
        for each in held:
            each.close()
    wait_until(
        lambda: talk(port, get(b"Connection: close"), within_s=5).statuses == [200],
        deadline_s=10,
        what="the address to be served again",
    )


def test_a_slow_reader_is_dropped(service: EmbeddedService, port: int) -> None:
    with connect(port, receive_bytes=4096) as connection:
        connection.sendall(get(target=b"/openapi.json") * 12)  # more than the buffers hold
        wait_until(
            lambda: "slow_reader_dropped" in log_of(service),
            deadline_s=10,
            what="the slow reader to be dropped",
        )


def test_the_service_may_open_as_many_files_as_it_is_allowed(service: EmbeddedService) -> None:
    limits = Path(f"/proc/{service.processes['api']}/limits").read_text()
    (line,) = [each for each in limits.splitlines() if each.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard
