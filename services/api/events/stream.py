"""A run's events as server-sent events: first those that are stored, then each as it happens."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import anyio.to_thread

from services.api.events.presenting import event_shape
from services.api.events.shapes import TERMINAL_EVENTS
from services.api.service import Service
from services.store import runs
from services.store.database import TRANSIENT_ERRORS
from services.store.runs import Event

POLL_S: Final = 5.0
KEEP_ALIVE_S: Final = 15.0
_BATCH: Final = 100


async def event_stream(
    service: Service, tenant_id: str, run_id: str, after_seq: int
) -> AsyncIterator[str]:
    """Events after ``after_seq`` without gap or duplicate; ends with the run's last event.

    It also ends when the process stops or the database does not answer. The client then connects
    again and sends Last-Event-ID.
    """
    yield "retry: 3000\n\n"
    last_sent_s = time.monotonic()
    with service.events.subscribed(run_id) as wake_up:
        while not service.events.is_closing:
            wake_up.clear()  # before reading, so that no hint is lost between reading and waiting
            try:
                rows, is_over = await anyio.to_thread.run_sync(
                    _read, service, tenant_id, run_id, after_seq, limiter=service.events.readers
                )
            except TRANSIENT_ERRORS:
                return
            for row in rows:
                yield encoded(row)
                after_seq, last_sent_s = row.seq, time.monotonic()
                if row.type in TERMINAL_EVENTS:
                    return
            if rows:
                continue
            if is_over:  # the client has the last event already
                return
            if time.monotonic() - last_sent_s >= KEEP_ALIVE_S:
                yield ": still here\n\n"
                last_sent_s = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake_up.wait(), POLL_S)


def encoded(row: Event) -> str:
    """One event in the text format of server-sent events (WHATWG HTML, 9.2)."""
    type_ = " ".join(row.type.split())  # a line feed would end the field
    return f"id: {row.seq}\nevent: {type_}\ndata: {event_shape(row).model_dump_json()}\n\n"


def _read(
    service: Service, tenant_id: str, run_id: str, after_seq: int
) -> tuple[list[Event], bool]:
    """The next events, and whether the run was over before they were read."""
    with service.database.transaction(tenant_id) as conn:
        is_over = runs.get(conn, tenant_id, run_id).is_over
        return runs.events(conn, tenant_id, run_id, after_seq, _BATCH), is_over
