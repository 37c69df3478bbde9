"""Connections to addresses that tenants give: looked up, checked, and connected to as checked.

A host name is resolved once for each connection, and the connection goes to an address of that
answer. So a name that stands for another address a moment later wins nothing.
"""

import socket
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any

from httpcore import (
    ConnectError,
    ConnectTimeout,
    NetworkBackend,
    NetworkStream,
    ReadTimeout,
    SyncBackend,
    WriteTimeout,
)

from trainer_core.web.public_addresses import Network, is_allowed, is_public


class AddressRefusedError(Exception):
    """The host has no address that may be connected to."""


class NameNotFoundError(Exception):
    """The host name has no address."""


class CheckedNetwork(NetworkBackend):
    """Opens connections, all of which end at a deadline: that of the request under way."""

    def __init__(self, *, allowed: Sequence[Network], takes_public: bool, timeout_s: float) -> None:
        """
        Args:
            allowed: networks of the operator.
            takes_public: whether addresses of the public internet may be connected to, too.
            timeout_s: for everything together, from now on.
        """
        self._allowed = allowed
        self._takes_public = takes_public
        self.ends_at = time.monotonic() + timeout_s
        self._network = SyncBackend()

    def renew(self, timeout_s: float) -> None:
        """Begin another request, which may use a connection that is kept: it has its own time."""
        self.ends_at = time.monotonic() + timeout_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        """Raises NameNotFoundError, AddressRefusedError and httpcore's errors of connections."""
        addresses = [each for each in _addresses_of(host, port) if self._may_reach(each)]
        for position, address in enumerate(addresses, start=1):
            left_s = _left_s(self.ends_at, timeout, ConnectTimeout)
            try:
                stream = self._network.connect_tcp(
                    address, port, left_s, local_address, socket_options
                )
            except (ConnectError, ConnectTimeout):
                if position == len(addresses):
                    raise
                continue
            return _TimedStream(stream, self)
        raise AddressRefusedError

    def _may_reach(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False  # with a zone, which no public address has
        return is_allowed(found, self._allowed) or (self._takes_public and is_public(found))


class _TimedStream(NetworkStream):
    """A connection whose reads and writes end at a deadline, however little each one brings."""

    def __init__(self, stream: NetworkStream, network: CheckedNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._network.ends_at, timeout, ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._network.ends_at, timeout, WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> NetworkStream:
        left_s = _left_s(self._network.ends_at, timeout, ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, left_s)
        return _TimedStream(stream, self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left_s(ends_at: float, timeout: float | None, over: type[Exception]) -> float:
    """Seconds that a step may take; raises ``over`` where none are left."""
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise over
    return left_s if timeout is None else min(left_s, timeout)


def _addresses_of(host: str, port: int) -> list[str]:
    """What the system's resolver knows of the host, in its order and each once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NameNotFoundError from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
