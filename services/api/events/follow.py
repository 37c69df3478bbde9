"""Server-sent events: first what is stored, then what is added, over one connection."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import anyio.to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api.events.hub import EventHub
from services.api.routing import EVENT_STREAM
from services.store.database import TRANSIENT_ERRORS

POLL_S: Final = 5.0
KEEP_ALIVE_S: Final = 15.0

Read = Callable[[], tuple[Sequence[str], bool]]
"""The next messages, encoded, and whether no more will follow."""


async def follow(hub: EventHub, run_id: str, read: Read) -> AsyncIterator[str]:
    """Messages of a run until no more will follow.

    The stream also ends when the process stops or the database does not answer. The client then
    connects again and sends Last-Event-ID.

    Args:
        read: called in a thread, again and again; remembers what it has returned.
    """
    yield "retry: 3000\n\n"
    last_sent_s = time.monotonic()
    with hub.subscribed(run_id) as wake_up:
        while not hub.is_closing:
            wake_up.clear()  # before reading, so that no hint is lost between reading and waiting
            try:
                messages, is_last = await anyio.to_thread.run_sync(read, limiter=hub.readers)
            except TRANSIENT_ERRORS:
                return
            for message in messages:
                yield message
                last_sent_s = time.monotonic()
            if is_last:
                return
            if messages:
                continue
            if time.monotonic() - last_sent_s >= KEEP_ALIVE_S:
                yield ": still here\n\n"
                last_sent_s = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake_up.wait(), POLL_S)


class CountedStream(StreamingResponse):
    """Counts among the tenant's open streams from before its first byte to its end."""

    media_type = EVENT_STREAM

    def __init__(self, messages: AsyncIterator[str], hub: EventHub, tenant_id: str) -> None:
        super().__init__(messages, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._hub = hub
        self._tenant_id = tenant_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.counted(self._tenant_id):
            await super().__call__(scope, receive, send)
