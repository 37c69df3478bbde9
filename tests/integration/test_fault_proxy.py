"""The fault proxy does to a real HTTP server what its modes say."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support.proxy import FaultProxy, Mode
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
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


@contextmanager
def proxied() -> Iterator[tuple[FaultProxy, list[int]]]:
    """A proxy before a server, and the sizes of the bodies that the server read whole."""
    received: list[int] = []
    handler = type("Handler", (_Counting,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with FaultProxy(server.server_address[1]).running() as proxy:
            yield proxy, received
        server.shutdown()


def put(proxy: FaultProxy, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{proxy.port}/"
    return httpx.put(url, content=BODY, headers=headers, timeout=10)


def test_ok_and_slow_pass_everything() -> None:
    with proxied() as (proxy, received):
        assert put(proxy).text == "ok"
        proxy.set("slow")
        assert put(proxy).text == "ok"

        assert received == [len(BODY)] * 2
        assert proxy.hits["slow"] >= 2


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
