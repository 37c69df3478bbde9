"""A run's events as server-sent events: what is missed comes from the rows first, then live."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from starlette.concurrency import run_in_threadpool

from services.api.events.presenting import event_shape
from services.api.events.shapes import TERMINAL_EVENTS
from services.api.service import Service
from services.store import runs
from services.store.database import DatabaseDownError
from services.store.runs import Event

POLL_S: Final = 5.0
KEEP_ALIVE_S: Final = 15.0
_BATCH: Final = 100


async def event_stream(
    service: Service, tenant_id: str, run_id: str, after_seq: int
) -> AsyncIterator[str]:
    """Events behind ``after_seq`` without gap or duplicate; ends with the run's last one.

    Ends as well when the process shuts down or the database goes away; the client comes back with
    Last-Event-ID.
    """
    yield "retry: 3000\n\n"
    sent_s = time.monotonic()
    with service.events.subscribed(run_id) as wakened:
        while not service.events.is_closing:
            wakened.clear()  # before the look, so that no hint falls between look and wait
            try:
                rows, is_over = await run_in_threadpool(
                    _read, service, tenant_id, run_id, after_seq
                )
            except DatabaseDownError:
                return
            for row in rows:
                yield encoded(row)
                after_seq, sent_s = row.seq, time.monotonic()
                if row.type in TERMINAL_EVENTS:
                    return
            if rows:
                continue
            if is_over:  # Last-Event-ID lies behind the last one
                return
            if time.monotonic() - sent_s >= KEEP_ALIVE_S:
                yield ": still here\n\n"
                sent_s = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wakened.wait(), POLL_S)


def encoded(row: Event) -> str:
    """One event in the format of the WHATWG's text on server-sent events."""
    type_ = " ".join(row.type.split())  # a line feed would end the field
    return f"id: {row.seq}\nevent: {type_}\ndata: {event_shape(row).model_dump_json()}\n\n"


def _read(
    service: Service, tenant_id: str, run_id: str, after_seq: int
) -> tuple[list[Event], bool]:
    """The next events, and whether the run was over before they were read."""
    with service.database.transaction() as conn:
        is_over = runs.get(conn, tenant_id, run_id).is_over
        return runs.events(conn, tenant_id, run_id, after_seq, _BATCH), is_over
