"""An address that no service can have is refused before anything is sent."""

import pytest

from services.client.async_client import AsyncClient
from services.client.client import Client
from services.client.errors import ClientError


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["ftp://example.org", "example.org", "localhost:8484"])
def test_an_address_without_http_is_refused(kind: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(ClientError, match=r"no address of a service: it begins with https://"):
        kind(url, "rv_key")
