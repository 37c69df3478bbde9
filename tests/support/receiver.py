"""A receiver of webhooks: a real HTTP server, which answers as its test says."""

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook

_HELD_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """The event; the library raises where no signature fits."""
        return dict(Webhook(secret).verify(self.body, dict(self.headers)))


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_held: bool = False
    """It does not come before the receiver is closed."""
    pieces: int = 1
    """The body comes in so many pieces, the later ones when the receiver is closed."""


class Receiver:
    """A context manager. ``received`` has what came, and ``answer`` says what is answered."""

    def __init__(self, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Reply] = lambda _: Reply()
        self.closing = threading.Event()
        self._scheme = "http" if tls is None else "https"
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.handle(self)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's looks its own name up

            def handle_error(self, *_: Any) -> None:
                """A sender that hangs up is what tests are about."""

        self._server = Server((host, 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def ids(self) -> list[str]:
        """Of all that came, in order."""
        return [each.id for each in self.received]

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        received = Received(path=request.path, headers=dict(request.headers), body=body)
        self.received.append(received)
        reply = self.answer(received)
        if reply.is_held:
            self.closing.wait(_HELD_S)
        request.send_response(reply.status)
        for name, value in reply.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(reply.body)))
        request.end_headers()
        first = len(reply.body) // reply.pieces
        request.wfile.write(reply.body[:first])
        if reply.pieces > 1:
            self.closing.wait(_HELD_S)
        request.wfile.write(reply.body[first:])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
