"""Hostile clients of ``python -m services.api``: smuggled, slow, too large, too many."""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.hostile_requests import ANSWERED, CHUNKED, HEALTH, NEXT, REFUSED, get, post
from tests.support.raw_http import Answer, connect, read, read_one, talk
from tests.support.service import new_tenant, push_unread, run_request
from tests.support.tenant import Tenant
from tests.support.waiting import wait_until


def edge_of(fleet_of: Callable[..., Fleet], **env: str) -> Fleet:
    fleet = fleet_of(REVERIE_API_PROCESSES="1", **env)
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def edge(fleet_of: Callable[..., Fleet]) -> Fleet:
    """An API with short deadlines."""
    return edge_of(
        fleet_of,
        REVERIE_HTTP_HEADER_S="0.5",
        REVERIE_HTTP_BODY_S="0.5",
        REVERIE_HTTP_WRITE_S="0.5",
        REVERIE_HTTP_KEEP_ALIVE_S="2",
        REVERIE_HTTP_CONNECTIONS_PER_CLIENT="5",
        REVERIE_TRUSTED_PROXIES="127.0.0.1",  # so that this bound is one of the forwarded address
    )


@pytest.fixture(scope="module")
def tenant(edge: Fleet) -> Tenant:
    return new_tenant(edge, "ada")


def key_of(tenant: Tenant) -> bytes:
    return b"Authorization: " + tenant.http.headers["Authorization"].encode()


def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(edge: Fleet) -> None:
    def try_one(request: bytes) -> Answer:
        return talk(edge.port, request, within_s=5)

    with ThreadPoolExecutor(8) as pool:
        answers = dict(
            zip(REFUSED, pool.map(try_one, [r for r, _ in REFUSED.values()]), strict=True)
        )
    found = {name: (each.statuses, each.is_closed) for name, each in answers.items()}
    assert found == {name: ([status], True) for name, (_, status) in REFUSED.items()}
    for name, each in answers.items():
        assert b"content-type: application/problem+json\r\n" in each.raw, name
        assert b"connection: close\r\n" in each.raw, name
        assert b"cache-control: no-store\r\n" in each.raw, name


def test_what_is_unusual_but_right_is_answered(edge: Fleet) -> None:
    for name, (request, status) in ANSWERED.items():
        with connect(edge.port) as connection:
            connection.sendall(request)
            assert read_one(connection).statuses == [status], name
            connection.sendall(get())  # the connection stays
            assert read_one(connection).statuses == [200], name


def test_nothing_after_a_refused_request_is_answered(edge: Fleet) -> None:
    behind_a_good_one = talk(edge.port, get() + b"\x01garbage\r\n\r\n" + NEXT, within_s=5)
    assert (behind_a_good_one.statuses, behind_a_good_one.is_closed) == ([200], True)
    refused = talk(edge.port, get(b"Host: other") + get(), within_s=5)
    assert (refused.statuses, refused.is_closed) == ([400], True)
    closed = talk(edge.port, get(b"Connection: close") + get(), within_s=5)
    assert (closed.statuses, closed.is_closed) == ([200], True)
    upgrade = get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAA")
    upgraded = talk(edge.port, upgrade + get(), within_s=5)
    assert (upgraded.statuses, upgraded.is_closed) == ([200], True)


def test_pipelined_requests_are_answered_in_order_up_to_a_bound(edge: Fleet) -> None:
    few = talk(edge.port, get() * 10 + get(b"Connection: close"), within_s=5)
    assert (few.statuses, few.is_closed) == ([200] * 11, True)
    many = talk(edge.port, get() * 1000, within_s=5)
    assert many.is_closed
    assert 10 < len(many.statuses) < 100


def test_http_1_0_is_answered_and_closed(edge: Fleet) -> None:
    for request in (b"GET /healthz HTTP/1.0\r\n\r\n", get(version=b"1.0")):
        answer = talk(edge.port, request, within_s=5)
        assert (answer.statuses, answer.is_closed) == ([200], True)
        assert b"transfer-encoding" not in answer.raw
    expecting = post(b"Content-Length: 2", b"Expect: 100-continue", version=b"1.0", body=b"{}")
    assert talk(edge.port, expecting, within_s=5).statuses == [401]


def test_a_client_is_asked_for_its_body_only_when_it_will_be_read(
    edge: Fleet, tenant: Tenant
) -> None:
    asking = (b"Content-Length: 2", b"Content-Type: application/json", b"Expect: 100-continue")
    refused = talk(edge.port, post(*asking), within_s=5)
    assert (refused.statuses, refused.is_closed) == ([401], True)
    with connect(edge.port) as connection:
        connection.sendall(post(key_of(tenant), *asking))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert read_one(connection).statuses == [422]
        connection.sendall(get())
        assert read_one(connection).statuses == [200]


def test_a_head_that_does_not_arrive_is_not_waited_for(edge: Fleet) -> None:
    silent = talk(edge.port, b"", within_s=5)
    half = talk(edge.port, HEALTH, within_s=5)
    line_ends = talk(edge.port, b"\r\n\r\n", within_s=5)
    assert (silent.statuses, silent.is_closed) == ([], True)
    assert (half.statuses, half.is_closed) == ([408], True)
    assert (line_ends.statuses, line_ends.is_closed) == ([], True)
    with connect(edge.port) as connection:  # a byte now and then does not help
        gone_s = drip(connection, HEALTH + b"X: " + b"y" * 1000, every_s=0.1)
    assert gone_s < 3


def test_a_body_that_drips_is_not_waited_for(edge: Fleet, tenant: Tenant) -> None:
    lines = (key_of(tenant), b"Content-Type: application/json")
    for head in (post(*lines, b"Content-Length: 100000"), post(*lines, CHUNKED) + b"fffff\r\n"):
        with connect(edge.port) as connection:
            connection.sendall(head)
            gone_s = drip(connection, b" " * 1000, every_s=0.1)
            assert 0.3 < gone_s < 3
            assert read(connection, within_s=2).statuses in ([408], [])
    # Without a key it is refused at once, and what it drips is not read for ever.
    with connect(edge.port) as connection:
        connection.sendall(post(b"Content-Length: 100000"))
        assert read_one(connection).statuses == [401]
        assert drip(connection, b" " * 1000, every_s=0.1) < 3
    assert tenant.http.get("/v1/runs").status_code == 200


def test_a_body_that_is_slow_but_moves_is_read(edge: Fleet, tenant: Tenant) -> None:
    body = b"{" + b" " * 9998 + b"}"  # 10 kB in 2 s: four times the least
    with connect(edge.port) as connection:
        lines = (key_of(tenant), b"Content-Type: application/json", b"Content-Length: 10000")
        connection.sendall(post(*lines))
        for start in range(0, len(body), 500):
            connection.sendall(body[start : start + 500])
            time.sleep(0.1)  # the pace of the client is what is tested
        assert read_one(connection).statuses == [422]


def test_more_framing_than_body_is_refused(edge: Fleet, tenant: Tenant) -> None:
    with connect(edge.port) as connection:
        asking = (b"Content-Type: application/json", b"Expect: 100-continue", CHUNKED)
        connection.sendall(post(key_of(tenant), *asking))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"1;" + b"a" * 100_000)
        answer = read(connection, within_s=5)
    assert (answer.statuses, answer.is_closed) == ([400], True)


def test_an_idle_connection_is_closed_and_one_in_use_is_not(edge: Fleet) -> None:
    with connect(edge.port) as connection:
        for _ in range(4):
            connection.sendall(get())
            assert read_one(connection).statuses == [200]
            time.sleep(0.6)  # longer than the deadline of a head, shorter than that of a pause
        assert connection.recv(65536) == b""


def test_the_body_of_an_answer_does_not_wait_for_the_client(edge: Fleet) -> None:
    took_s = []
    with connect(edge.port) as connection:
        for _ in range(21):
            connection.sendall(get())
            took_s.append(read_one(connection).took_s)
    assert statistics.median(took_s) < 0.03  # a client acknowledges after 40 ms


def test_a_client_that_reads_nothing_is_dropped(edge: Fleet) -> None:
    with connect(edge.port, receive_bytes=4096) as connection:
        connection.sendall(get(target=b"/openapi.json") * 12)  # more than the buffers hold
        wait_until(
            lambda: "slow_reader_dropped" in edge.tail("api", 1 << 20),
            deadline_s=10,
            what="the slow reader to be dropped",
        )
    assert talk(edge.port, get(b"Connection: close"), within_s=5).statuses == [200]


def test_too_many_connections(fleet_of: Callable[..., Fleet]) -> None:
    edge = edge_of(fleet_of, REVERIE_HTTP_CONNECTIONS="6", REVERIE_HTTP_CONNECTIONS_PER_CLIENT="5")
    held = [connect(edge.port) for _ in range(5)]
    try:
        for each in held:
            each.sendall(get())
            assert read_one(each).statuses == [200]
        refused = talk(edge.port, get(), within_s=5)
        assert (refused.statuses, refused.is_closed) == ([429], True)
        assert b"retry-after: 2\r\n" in refused.raw
    finally:
        for each in held:
            each.close()

    def is_served() -> bool:
        return talk(edge.port, get(b"Connection: close"), within_s=5).statuses == [200]

    wait_until(is_served, deadline_s=10, what="the address to be served again")


def test_more_connections_than_files_are_refused_at_the_start(edge: Fleet) -> None:
    command = "ulimit -n 1000; exec python -m services.api --port 1"
    path = f"{Path(sys.executable).parent}:{edge.env['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        env={**edge.env, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "REVERIE_HTTP_CONNECTIONS is 2000" in done.stderr
    assert "raise the limit to 2512" in done.stderr


def test_too_many_requests_of_one_forwarded_address(edge: Fleet, tenant: Tenant) -> None:
    run_id = tenant.submit(run_request(push_unread(tenant)))

    def watching(address: bytes) -> bytes:
        events = f"/v1/runs/{run_id}/events".encode()
        forwarded = b"X-Forwarded-For: 192.0.2.1, " + address  # the first one is what a client sent
        return get(key_of(tenant), b"Accept: text/event-stream", forwarded, target=events)

    watchers = [connect(edge.port) for _ in range(5)]
    try:
        for each in watchers:
            each.sendall(watching(b"203.0.113.7"))
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")
        for address, status in ((b"203.0.113.7", 429), (b"203.0.113.8", 200)):
            with connect(edge.port) as other:
                other.sendall(watching(address))
                assert other.recv(65536).startswith(b"HTTP/1.1 %d " % status)
    finally:
        for each in watchers:
            each.close()


def drip(connection: socket.socket, body: bytes, *, every_s: float) -> float:
    """Send a byte at a time until the server ends the connection; the seconds that it took."""
    started_s = time.monotonic()
    connection.setblocking(False)
    for byte in body:
        try:
            connection.send(bytes([byte]))
            if connection.recv(1, socket.MSG_PEEK) == b"":
                break
            if connection.recv(65536).startswith(b"HTTP/1.1 408 "):
                break
        except BlockingIOError:
            pass
        except OSError:
            break
        time.sleep(every_s)
    connection.setblocking(True)
    return time.monotonic() - started_s
