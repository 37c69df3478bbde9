"""The fault proxy does to a real HTTP server what its modes say."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.support.proxy import SLOW_S, FaultProxy, Mode
from tests.support.tls import new_authority
from tests.support.waiting import wait_until

BODY = bytes(8 << 10)


class _Counting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received: list[int]

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(len(body))
        self.send_response(200)
        self.send_header("Nth", str(len(self.received)))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


@contextmanager
def proxied(tls: ssl.SSLContext | None = None) -> Iterator[tuple[FaultProxy, list[int]]]:
    """A proxy before a server, and the sizes of the bodies that the server read whole."""
    received: list[int] = []
    handler = type("Handler", (_Counting,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with FaultProxy(server.server_address[1], tls).running() as proxy:
            yield proxy, received
        server.shutdown()


def put(proxy: FaultProxy, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{proxy.port}/"
    return httpx.put(url, content=BODY, headers=headers, timeout=10)


def test_ok_and_slow_pass_everything() -> None:
    with proxied() as (proxy, received):
        assert put(proxy).text == "ok"
        proxy.set("slow")
        asked_s = time.monotonic()
        assert put(proxy).text == "ok"

        assert time.monotonic() - asked_s >= 2 * SLOW_S  # the request, and its answer
        assert received == [len(BODY)] * 2
        assert proxy.requests == [("PUT", "/")] * 2


def test_the_server_acts_although_its_reply_is_lost() -> None:
    with proxied() as (proxy, received):
        proxy.set("drop_reply")

        with pytest.raises(httpx.TransportError):
            put(proxy)

        assert received == [len(BODY)]


def test_an_answer_that_asks_for_the_body_is_not_lost() -> None:
    with proxied() as (proxy, received):
        proxy.set("drop_reply")
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.sendall(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert client.recv(1 << 10).startswith(b"HTTP/1.1 100 ")
            client.sendall(b"ab")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

        assert received == [2]


def test_one_answer_is_lost_by_name() -> None:
    with proxied() as (proxy, received):
        lost = proxy.lose_answer(b"PUT /a", b"PUT /b")
        with httpx.Client(base_url=f"http://127.0.0.1:{proxy.port}") as client:
            assert client.put("/b", content=BODY).text == "ok"  # before a
            assert client.put("/a", content=BODY).text == "ok"
            assert not lost.is_lost
            with pytest.raises(httpx.TransportError):
                client.put("/b", content=BODY)
            assert lost.is_lost
            assert client.put("/a", content=BODY).text == "ok"
            assert client.put("/b", content=BODY).text == "ok"

        assert received == [len(BODY)] * 5


def test_a_repeated_request_is_answered_once() -> None:
    with proxied() as (proxy, received):
        proxy.set("repeat")

        assert put(proxy).headers["Nth"] == "2"
        assert received == [len(BODY)] * 2


def test_a_request_comes_again_after_its_answer() -> None:
    with proxied() as (proxy, received):
        proxy.set("repeat_late")

        assert put(proxy).headers["Nth"] == "1"
        assert received == [len(BODY)]
        wait_until(lambda: received == [len(BODY)] * 2, what="the request to come again")


def test_clients_of_a_proxy_with_tls_trust_its_authority(tmp_path: Path) -> None:
    ca_file, tls = new_authority(tmp_path)
    with proxied(tls) as (proxy, received):
        url = f"https://127.0.0.1:{proxy.port}/"
        trusted = ssl.create_default_context(cafile=str(ca_file))
        assert httpx.put(url, content=BODY, verify=trusted).text == "ok"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.put(url, content=BODY)

        assert received == [len(BODY)]


def test_nothing_passes_while_it_hangs() -> None:
    with proxied() as (proxy, received), ThreadPoolExecutor(1) as threads:
        proxy.set("hang")
        answer = threads.submit(put, proxy)
        wait_until(lambda: proxy.hits["hang"], what="a request")
        assert received == []
        proxy.set("ok")

        assert answer.result().text == "ok"


def test_409_is_answered_to_conditional_writes() -> None:
    with proxied() as (proxy, received):
        proxy.set("409")

        assert put(proxy, **{"If-None-Match": "*"}).status_code == 409
        assert received == []
        assert put(proxy).status_code == 200


@pytest.mark.parametrize("mode", ["reset", "half_body"])
def test_the_server_gets_no_whole_request(mode: Mode) -> None:
    with proxied() as (proxy, received):
        proxy.set(mode)

        with pytest.raises(httpx.TransportError):
            put(proxy)

        assert received == []
        assert proxy.hits[mode] >= 1


def test_503_is_answered_by_the_proxy() -> None:
    with proxied() as (proxy, received):
        proxy.set("503")

        assert put(proxy).status_code == 503
        assert received == []


def test_reset_also_meets_open_connections() -> None:
    with proxied() as (proxy, _), socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"PUT /")
        proxy.set("reset")

        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
