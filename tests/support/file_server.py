"""A web server for downloads: real HTTP, which answers each path as its test says."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

OWN, INSIDE = "127.0.0.2", "127.0.0.1"
"""Addresses of two servers: tests allow the first one only."""


@dataclass(frozen=True, kw_only=True)
class File:
    """The answer to a request of one path."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    declared_bytes: int | None = None
    """None: the length of the body; -1: none is declared, and the connection's end ends it."""
    failures: int = 0
    """So many requests are answered 503 first."""
    then: "File | None" = None
    """The answer to later requests, where it is another one."""
    has_ranges: bool = False
    """A range from a byte to the end is answered with that part, if its If-Range is the ETag."""
    is_held: bool = False
    """Half the body comes when the server is closed or released."""


def _start_of_range(request: BaseHTTPRequestHandler, file: File) -> int | None:
    wanted = request.headers.get("Range", "")
    is_same = request.headers.get("If-Range") in (None, file.headers.get("ETag"))
    if not file.has_ranges or not is_same or not wanted.startswith("bytes="):
        return None
    return int(wanted.removeprefix("bytes=").removesuffix("-"))


class FileServer:
    """A context manager. ``files`` by path; ``requests`` has the paths that were asked for."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.files: dict[str, File] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"http://{host or self.host}:{self.port}{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.requests.append(path)
        self.headers.append(dict(request.headers))
        file = self.files.get(path, File(status=404))
        if self.requests.count(path) <= file.failures:
            file = File(status=503)
        if file.then is not None:
            self.files[path] = file.then
        if (start := _start_of_range(request, file)) is not None:
            end = len(file.body)
            part = {"Content-Range": f"bytes {start}-{end - 1}/{end}"}
            headers = {**file.headers, **part}
            file = replace(file, status=206, body=file.body[start:], headers=headers)
        request.send_response(file.status)
        for name, value in file.headers.items():
            request.send_header(name, value)
        declared = len(file.body) if file.declared_bytes is None else file.declared_bytes
        if declared >= 0:
            request.send_header("Content-Length", str(declared))
        request.end_headers()
        half = len(file.body) // 2
        try:
            request.wfile.write(file.body[:half])
            request.wfile.flush()
            if file.is_held:
                self.released.wait(30)
            request.wfile.write(file.body[half:])
        except OSError:
            request.close_connection = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[FileServer]:
    """At ``OWN``."""
    with FileServer(OWN) as running:
        yield running
