"""The open connections of a process: how many there are, and from whom."""

from collections import Counter
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Protocol

from services.api.http.heads import CLIENT_FULL, SERVER_FULL, Refusal
from services.settings.http_limits import HttpLimits

MOST_REFUSED: Final = 256
"""Refused connections that are open at once; the oldest gives way to a new one."""


class Connection(Protocol):
    """An open connection, as far as it can be closed for another."""

    def drop(self) -> None:
        """Close it now."""


class Connections:
    """Counts connections; one that waits for a request gives way to a new one, oldest first."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._client_of: dict[Connection, str | None] = {}
        self._of_client: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}  # the one that waits longest comes first
        self._refused: dict[Connection, None] = {}  # open until they are told why, oldest first

    def admit(self, connection: Connection, address: str | None) -> Refusal | None:
        """Count a new connection, or say why it cannot be served.

        Args:
            address: of the peer; None where it has none. A trusted proxy has many clients, so its
                connections are not counted as one client's.
        """
        client = None if address is None or self._is_proxy(address) else client_of(address)
        if client is not None and self._of_client[client] >= self._limits.connections_per_client:
            return self._refuse(connection, CLIENT_FULL)
        if len(self._client_of) >= self._limits.connections:
            if not self._waiting:
                return self._refuse(connection, SERVER_FULL)
            oldest = next(iter(self._waiting))
            self.remove(oldest)
            oldest.drop()
        self._client_of[connection] = client
        if client is not None:
            self._of_client[client] += 1
        self._waiting[connection] = None
        return None

    def remove(self, connection: Connection) -> None:
        """The connection is closed; harmless for one that is not counted."""
        self._refused.pop(connection, None)
        self._waiting.pop(connection, None)
        client = self._client_of.pop(connection, None)
        if client is not None:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def is_busy(self, connection: Connection) -> None:
        """A request came in whole as far as its head."""
        self._waiting.pop(connection, None)

    def is_waiting(self, connection: Connection) -> None:
        """The request was answered."""
        if connection in self._client_of:
            self._waiting[connection] = None

    def _refuse(self, connection: Connection, refusal: Refusal) -> Refusal:
        self._refused[connection] = None
        if len(self._refused) > MOST_REFUSED:
            oldest = next(iter(self._refused))
            self.remove(oldest)
            oldest.drop()
        return refusal

    def _is_proxy(self, address: str) -> bool:
        host = ip_address(address)
        return any(host in network for network in self._limits.trusted_proxies)


def client_of(address: str) -> str:
    """Whom an address stands for: itself, or its /64, of which one client may have every address.

    A proxy may forward any text; that stands for itself.
    """
    try:
        host = ip_address(address)
    except ValueError:
        return address
    if isinstance(host, IPv6Address) and host.ipv4_mapped is None:
        return str(ip_network((host, 64), strict=False))
    return address
