"""What a client may take of the API: time, connections; and whom the API believes."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpLimits:
    """Each holds for one process of the API."""

    header_s: float = 10
    """REVERIE_HTTP_HEADER_S: time for the head of a request to arrive."""
    body_s: float = 30
    """REVERIE_HTTP_BODY_S: a body has to bring 1,000 bytes a second over each such time."""
    whole_body_s: float = 300
    """REVERIE_HTTP_WHOLE_BODY_S: and all of it within this time, where it is JSON."""
    write_s: float = 30
    """REVERIE_HTTP_WRITE_S: a client has to take 1,000 bytes a second of its answer over each such
    time."""
    keep_alive_s: float = 75
    """REVERIE_HTTP_KEEP_ALIVE_S: an idle connection is closed after this; longer than a proxy's."""
    connections: int = 2000
    """REVERIE_HTTP_CONNECTIONS: most open connections; then idle ones are closed, oldest first."""
    connections_per_client: int = 1000
    """REVERIE_HTTP_CONNECTIONS_PER_CLIENT: most of them from one address (of IPv6: one /64)."""
    trusted_proxies: tuple[Network, ...] = ()
    """REVERIE_TRUSTED_PROXIES: addresses and networks whose X-Forwarded-For names the client."""
