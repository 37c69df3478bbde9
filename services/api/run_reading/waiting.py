"""``Prefer: wait=30`` (RFC 7240): the answer comes when the run has changed, or after that time."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import Header, Request

from services.api.events.follow import POLL_S
from services.api.events.hub import EventHub
from services.api.runs.shapes import Run
from services.domain.states import OVER

MAX_WAIT_S: Final = 30
_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)
_VERSION: Final = re.compile(r'"(\d{1,18})-')

Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description=f"`wait=30`: answer when the run is over or has another version than the one "
        f"in If-None-Match, or than now where that is missing; at the latest after so many "
        f"seconds, of {MAX_WAIT_S} at most. Other preferences are ignored.",
    ),
]


def asked_wait_s(prefer: str | None) -> int:
    """Seconds that the client wants to wait at most; 0: not at all."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), MAX_WAIT_S) if found else 0


async def wait_for_change(
    hub: EventHub, request: Request, run: Run, read: Callable[[], Awaitable[Run]], wait_s: int
) -> Run:
    """The run once it is over or has another version than the client knows, or after ``wait_s``."""
    known = _VERSION.search(request.headers.get("If-None-Match", ""))
    version = run.version if known is None else int(known[1])
    end_s = time.monotonic() + wait_s
    with hub.subscribed(run.id) as wake_up:
        while True:
            wake_up.clear()  # before reading, so that no hint is lost between reading and waiting
            run = await read()
            left_s = end_s - time.monotonic()
            if run.status in OVER or run.version != version or left_s <= 0 or hub.is_closing:
                return run
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake_up.wait(), min(left_s, POLL_S))
