"""One try to send an event: signed, to a checked address, in bounded time.

No redirect is followed, and no proxy, cookie or password of the environment is used.
"""

import functools
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx
from pydantic import SecretStr
from standardwebhooks import Webhook

from services.domain.webhooks import MOST_REPLY_BYTES
from services.store.webhook_work import Answer, DueDelivery
from trainer_core.web.connecting import (
    AddressRefusedError,
    CheckedNetwork,
    NameNotFoundError,
)
from trainer_core.web.public_addresses import Network

TIMEOUT_S: Final = 15.0


def send(
    delivery: DueDelivery,
    signing: Sequence[SecretStr],
    allowed: Sequence[Network],
    *,
    timeout_s: float,
) -> Answer:
    """What the receiver answers; never raises an error of the network.

    Args:
        signing: the secrets that sign, each with a signature of its own.
        allowed: networks of the operator; http is spoken to those only.
        timeout_s: for all of it but the look-up of the host name.
    """
    network = CheckedNetwork(
        allowed=allowed,
        takes_public=urlsplit(delivery.url).scheme == "https",
        timeout_s=timeout_s,
    )
    body = delivery.payload.encode()
    try:
        with (
            httpcore.ConnectionPool(ssl_context=tls(), network_backend=network) as pool,
            pool.stream(
                "POST", delivery.url, headers=_headers(delivery, signing), content=body
            ) as answer,
        ):
            return Answer(
                status_code=answer.status,
                error=None,
                reply=_beginning(answer),
                retry_after=_retry_after(answer.headers, delivery.claimed_at),
            )
    except AddressRefusedError:
        error = "address_refused"
    except NameNotFoundError:
        error = "name_not_found"
    except httpcore.TimeoutException:
        error = "timeout"
    except httpcore.ConnectError as failure:
        error = "tls_failed" if isinstance(failure.__context__, ssl.SSLError) else "not_connected"
    except (httpcore.NetworkError, httpcore.ProtocolError):
        error = "no_answer"
    return Answer(status_code=None, error=error, reply="")


@functools.cache
def tls() -> ssl.SSLContext:
    """Trusts whom httpx trusts: SSL_CERT_FILE, or else the certificates of certifi."""
    return httpx.create_ssl_context()


def _headers(
    delivery: DueDelivery, signing: Sequence[SecretStr]
) -> list[tuple[bytes | str, bytes | str]]:
    at = delivery.claimed_at.astimezone(UTC)  # the library takes any other for UTC, too
    signatures = [
        Webhook(secret.get_secret_value()).sign(delivery.event_id, at, delivery.payload)
        for secret in signing
    ]
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", "Reverie-Webhooks/1"),
        ("webhook-id", delivery.event_id),
        ("webhook-timestamp", str(int(at.timestamp()))),
        ("webhook-signature", " ".join(signatures)),
    ]


def _beginning(answer: httpcore.Response) -> str:
    """The first bytes of the body, as text; the rest is not read."""
    beginning = b""
    try:
        for chunk in answer.iter_stream():
            beginning += chunk
            if len(beginning) >= MOST_REPLY_BYTES:
                break
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        pass  # the status has come, and the body is only shown
    return beginning[:MOST_REPLY_BYTES].decode(errors="replace").replace("\0", "")


def _retry_after(headers: list[tuple[bytes, bytes]], now: datetime) -> timedelta | None:
    """The header's pause: seconds, or a date; None where it is missing or is neither."""
    text = next(
        (v.decode("ascii", "replace") for k, v in headers if k.lower() == b"retry-after"), ""
    )
    if text.isdecimal():
        return timedelta(seconds=min(int(text[:9]), 10**6))
    try:
        return max(timedelta(0), parsedate_to_datetime(text) - now)
    except (ValueError, TypeError):
        return None
