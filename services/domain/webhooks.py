"""Webhooks: the events there are, the addresses they may go to, and the pauses between tries.

Events, signatures and secrets follow Standard Webhooks 1.
"""

import base64
import contextlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from services.domain.states import RunStatus
from trainer_core.web.public_addresses import Network, may_be_reached

EventType = Literal[
    "run.queued",
    "run.started",
    "run.paused",
    "run.checkpoint.created",
    "run.succeeded",
    "run.failed",
    "run.canceled",
    "dataset.validated",
    "dataset.rejected",
    "publication.succeeded",
    "publication.failed",
    "webhook.disabled",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
TEST_EVENT: Final = "webhook.test"
"""Sent on request, whatever events a webhook is for."""
OF_STATUS: Final[dict[RunStatus, EventType]] = {
    RunStatus.QUEUED: "run.queued",
    RunStatus.PAUSED: "run.paused",
    RunStatus.SUCCEEDED: "run.succeeded",
    RunStatus.FAILED: "run.failed",
    RunStatus.CANCELED: "run.canceled",
}
"""Status that a run comes to → the event of it; the others have none."""

MOST_WEBHOOKS: Final = 10
"""Of one tenant."""
MOST_REPLY_BYTES: Final = 2048
"""Of an answer, kept to be shown."""
MOST_URL_CHARACTERS: Final = 2000
SECRET_GRACE_S: Final = 86_400
"""For so long the old secret signs beside the new one."""
DISABLE_AFTER: Final = timedelta(days=3)
"""A webhook that has failed for so long is disabled."""
_PAUSES: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
_LONGEST_ASKED: Final = timedelta(hours=24)
_LEAST_PORT: Final = 1024
_PRINTABLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]+")  # of an address in brackets: without them


def new_signing_secret() -> str:
    """A fresh ``whsec_…`` of 32 random bytes."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def pause_after(attempts: int, asked: timedelta | None = None) -> timedelta | None:
    """The pause after a failed try, with up to a tenth more; None where it was the last one.

    Args:
        attempts: tries so far, this one included.
        asked: what the receiver's Retry-After says; a longer pause than a day is not kept.
    """
    if attempts > len(_PAUSES):
        return None
    pause = _PAUSES[attempts - 1] * random.uniform(1.0, 1.1)  # noqa: S311 - jitter, no secret
    return pause if asked is None else max(pause, min(asked, _LONGEST_ASKED))


def address_problem(url: str, allowed: Sequence[Network]) -> str | None:
    """What is wrong with the address of a webhook, in words; None where nothing is.

    A host name is looked up, and its addresses are checked, when something is sent.

    Args:
        allowed: networks of the operator that may be reached besides the public internet. Only
            with some is http a scheme.
    """
    return next(_address_problems(url, allowed), None)


def _address_problems(url: str, allowed: Sequence[Network]) -> Iterator[str]:
    if len(url) > MOST_URL_CHARACTERS or _PRINTABLE.fullmatch(url) is None:
        yield f"A URL has 1 to {MOST_URL_CHARACTERS} printable ASCII characters."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        yield "This is no URL."
        return
    if parts.scheme != "https" and not (parts.scheme == "http" and allowed):
        yield "The URL has to begin with https://."
    if "@" in parts.netloc or "#" in url:
        yield "The URL may hold neither a user name nor a fragment."
    if _HOST.fullmatch(host) is None:
        yield "The URL has no host."
    default = 443 if parts.scheme == "https" else 80
    if port is not None and port != default and port < _LEAST_PORT:
        yield f"The port has to be {default}, or {_LEAST_PORT} or more."
    with contextlib.suppress(ValueError):
        if not may_be_reached(ip_address(host), allowed):
            yield "This address is not a public one; only the operator of the service can allow it."
