"""Host names without a name server: the resolver of this process answers what a test says."""

import ipaddress
import socket
from collections.abc import Callable

import pytest


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let the resolver answer with these addresses, one look-up after the other."""

    def resolve(*answers: list[str]) -> list[str]:
        left, asked = list(answers), []

        def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
            try:
                ipaddress.ip_address(host)
                addresses = [host]
            except ValueError:
                asked.append(host)
                addresses = left.pop(0) if len(left) > 1 else left[0]
            kinds = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
            return [
                (kind, socket.SOCK_STREAM, 6, "", (each, port))
                for kind, each in zip(kinds, addresses, strict=True)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return resolve
