"""Loopback TCP ports that nobody listens on at this moment."""

import contextlib
import secrets
import socket
from typing import Final

_FIRST: Final = 12_000
_END: Final = 32_000
"""Below the ports that Linux gives to whoever asks for any (ip_local_port_range): one of those may
be gone before the process that it was chosen for, which takes seconds to start, listens on it."""
_TRIES: Final = 100


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """``count`` different free ports."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for _ in range(_TRIES * count):
            if len(found) == count:
                return found
            port = _FIRST + secrets.randbelow(_END - _FIRST)
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        raise AssertionError("no free port found")
