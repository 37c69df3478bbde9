"""Requests of other libraries, sent as ``fetching`` sends its own: over checked connections only.

A library that speaks a protocol over HTTP, such as boto3, gives its finished requests here. It then
reaches what its user may reach, whatever an address or an answer of a server says.
"""

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from trainer_core.web.connecting import CheckedNetwork
from trainer_core.web.fetching import FetchError, errors_of, tls_context
from trainer_core.web.public_addresses import Network

_SILENCE_S: Final = {"connect": 10.0, "read": 20.0, "write": 20.0, "pool": 20.0}
"""Seconds without any byte after which a server is given up."""
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A server's answer, whose body is not read yet."""

    status: int
    headers: Mapping[str, str]
    body: "Body"


class Exchanges:
    """Sends requests and keeps connections; each thread has its own.

    A connection goes to an address that was looked up and checked for it, no redirect is followed,
    and no proxy, cookie or password of the environment is used.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        """``allowed``: networks that may be reached although they are not public."""
        self._allowed = allowed
        self._own = threading.local()
        self._lock = threading.Lock()
        self._pools: list[httpcore.ConnectionPool] = []

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str | bytes],
        body: bytes | None,
        *,
        timeout_s: float,
        max_bytes: int,
    ) -> Answer:
        """Send a request, whose answer has to be closed before the thread's next one.

        Args:
            method: such as ``GET``.
            url: http or https, percent-encoded.
            headers: are sent as they are, with ``Host`` where it is missing.
            body: None: none.
            timeout_s: for the request and its whole answer.
            max_bytes: of the answer's body.

        Raises FetchError where there is no answer; its cause is an AddressRefusedError where the
        host has no address that may be reached.
        """
        pool, network = self._connections()
        network.renew(timeout_s)
        stack = ExitStack()
        sent = [(name.encode(), _encoded(value)) for name, value in headers.items()]
        opening = pool.stream(
            method, url, headers=sent, content=body, extensions={"timeout": dict(_SILENCE_S)}
        )
        with errors_of(url):
            answer = stack.enter_context(opening)
        return Answer(
            status=answer.status,
            headers={k.decode("latin-1"): v.decode("latin-1") for k, v in answer.headers},
            body=Body(url, answer.iter_stream(), stack, max_bytes),
        )

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for pool in self._pools:
                pool.close()
            self._pools.clear()

    def _connections(self) -> tuple[httpcore.ConnectionPool, CheckedNetwork]:
        found: tuple[httpcore.ConnectionPool, CheckedNetwork] | None
        found = getattr(self._own, "found", None)
        if found is None:
            network = CheckedNetwork(allowed=self._allowed, takes_public=True, timeout_s=0)
            pool = httpcore.ConnectionPool(
                ssl_context=tls_context(), network_backend=network, max_keepalive_connections=1
            )
            with self._lock:
                self._pools.append(pool)
            found = self._own.found = pool, network
        return found


class Body:
    """The body of an answer, with the methods of urllib3's that botocore uses."""

    def __init__(
        self, url: str, pieces: Iterator[bytes], opened: ExitStack, max_bytes: int
    ) -> None:
        self._url = url
        self._pieces = pieces
        self._max_bytes = max_bytes
        self._opened = opened
        self._left_bytes = max_bytes
        self._kept = b""

    def read(self, size_bytes: int | None = None, **_: Any) -> bytes:
        """At most so many bytes, fewer only at the end; all of them where none are named.

        Raises FetchError where the connection breaks, or more bytes come than were to be taken.
        """
        parts, length = [self._kept], len(self._kept)
        while size_bytes is None or length < size_bytes:
            with errors_of(self._url):
                piece = next(self._pieces, None)
            if piece is None:
                break
            self._left_bytes -= len(piece)
            if self._left_bytes < 0:
                raise FetchError(self._url, f"it is larger than {self._max_bytes:,} bytes")
            parts.append(piece)
            length += len(piece)
        whole = b"".join(parts)
        end = len(whole) if size_bytes is None else size_bytes
        self._kept = whole[end:]
        return whole[:end]

    def stream(self, size_bytes: int = _PIECE_BYTES, **_: Any) -> Iterator[bytes]:
        """All of it in pieces; it is closed at the end."""
        try:
            yield from iter(functools.partial(self.read, size_bytes), b"")
        finally:
            self.close()

    def close(self) -> None:
        self._opened.close()


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
