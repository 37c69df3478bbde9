"""Wakes event streams: one LISTEN connection a process, in a thread of its own.

A notice is a hint that a run has new events; the rows are the data. A stream that misses a hint
looks by itself every few seconds.
"""

import asyncio
import contextlib
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import structlog

from services.store.database import EVENTS, Database, DatabaseDownError

log = structlog.get_logger(__name__)

_RECONNECT_S: Final = 1.0


class EventHub:
    """Belongs to one event loop, but for its listening thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._listen, name="event-hub", daemon=True)

    @property
    def is_closing(self) -> bool:
        """Whether streams are to end."""
        return self._closing.is_set()

    def start(self) -> None:
        """Begin to listen; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End every stream soon; call it in the event loop."""
        self._closing.set()
        self._wake_all()

    @contextlib.contextmanager
    def subscribed(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run may have something new; the caller clears it."""
        wakened = asyncio.Event()
        self._waiting[run_id].add(wakened)
        try:
            yield wakened
        finally:
            self._waiting[run_id].discard(wakened)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    def _wake(self, run_id: str) -> None:
        for wakened in self._waiting.get(run_id, ()):
            wakened.set()

    def _wake_all(self) -> None:
        for run_id in self._waiting:
            self._wake(run_id)

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen_once()
            except DatabaseDownError as error:
                log.warning("event_listener_lost", reason=str(error))
                self._closing.wait(_RECONNECT_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    def _listen_once(self) -> None:
        is_fresh = True
        for run_id in self._database.listen(EVENTS):
            if self._closing.is_set():
                return  # which drops the iterator and with it the connection
            if run_id is not None:
                self._in_loop(run_id)
            elif is_fresh:  # hints before this moment went unheard
                self._in_loop(None)
                is_fresh = False

    def _in_loop(self, run_id: str | None) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop ended while we listened
            if run_id is None:
                self._loop.call_soon_threadsafe(self._wake_all)
            else:
                self._loop.call_soon_threadsafe(self._wake, run_id)
