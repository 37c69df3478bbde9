"""HTTP as bytes on a socket, for requests that no client library would send."""

import re
import socket
import time
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_WHOLE = re.compile(rb"HTTP/1\.1 .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What came back, up to the end of the connection or of the wait."""

    raw: bytes
    is_closed: bool
    took_s: float

    @property
    def statuses(self) -> list[int]:
        return [int(each) for each in _STATUS.findall(self.raw)]


def connect(port: int, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection; ``receive_bytes`` bounds what the kernel takes before it is read."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


def read(connection: socket.socket, *, within_s: float) -> Answer:
    """Everything that arrives until the server closes, or for ``within_s``."""
    started_s = time.monotonic()
    parts: list[bytes] = []
    is_closed = False
    while (left_s := started_s + within_s - time.monotonic()) > 0 and not is_closed:
        connection.settimeout(left_s)
        try:
            part = connection.recv(65536)
        except TimeoutError:
            break
        except ConnectionResetError:
            part = b""
        parts.append(part)
        is_closed = not part
    return Answer(b"".join(parts), is_closed, time.monotonic() - started_s)


def read_one(connection: socket.socket) -> Answer:
    """One answer that has a Content-Length, to its last byte; the connection may stay."""
    started_s = time.monotonic()
    raw = b""
    while not (found := _WHOLE.match(raw)) or len(raw) < found.end() + int(found[1]):
        part = connection.recv(65536)
        if not part:
            return Answer(raw, True, time.monotonic() - started_s)
        raw += part
    return Answer(raw, False, time.monotonic() - started_s)


def talk(port: int, request: bytes, *, within_s: float) -> Answer:
    """Send these bytes on a new connection and read what comes back."""
    with connect(port) as connection:
        connection.sendall(request)
        return read(connection, within_s=within_s)
