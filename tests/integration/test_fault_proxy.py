"""The fault proxy does to a real HTTP server what its modes say."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support.proxy import FaultProxy, Mode

BODY = bytes(8 << 10)


class _Counting(BaseHTTPRequestHandler):
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


def put(proxy: FaultProxy) -> httpx.Response:
    return httpx.put(f"http://127.0.0.1:{proxy.port}/", content=BODY, timeout=10)


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
