"""Wakes event streams: one LISTEN connection for the process, in a thread of its own.

A notification is only a hint that a run has new events; the stream reads the rows. A stream that
misses a hint still reads the rows every few seconds.
"""

import asyncio
import contextlib
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import anyio
import structlog

from services.api.errors import RateLimitedError
from services.store.database import EVENTS, Database, DatabaseDownError

log = structlog.get_logger(__name__)

_RECONNECT_S: Final = 1.0
_STREAMS_RETRY_S: Final = 5
STREAM_READERS: Final = 4


class EventHub:
    """Wakes the streams of one event loop; notifications arrive in a thread of its own."""

    def __init__(self, database: Database, *, streams_per_tenant: int) -> None:
        self._database = database
        self._streams_per_tenant = streams_per_tenant
        self._open: Counter[str] = Counter()
        """Tenant id → its open streams."""
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.readers = anyio.CapacityLimiter(STREAM_READERS)
        """Streams read rows in threads of their own: one event may wake hundreds of them, and other
        requests must not queue behind those."""
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._listen, name="event-hub", daemon=True)

    @property
    def is_closing(self) -> bool:
        """True once ``close`` was called: streams have to end."""
        return self._closing.is_set()

    def start(self) -> None:
        """Start listening; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End every stream soon; call it in the event loop."""
        self._closing.set()
        self._wake_all()

    @contextlib.contextmanager
    def counted(self, tenant_id: str) -> Iterator[None]:
        """Counts a stream of this tenant while it is open.

        Raises RateLimitedError where the tenant has as many as it may have in this process.
        """
        if self._open[tenant_id] >= self._streams_per_tenant:
            raise RateLimitedError(
                f"The tenant has {self._streams_per_tenant:,} event streams and waiting requests "
                "open. Close one, or ask without waiting.",
                retry_after_s=_STREAMS_RETRY_S,
            )
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]

    @contextlib.contextmanager
    def subscribed(self, run_id: str) -> Iterator[asyncio.Event]:
        """An Event that is set whenever the run may have new rows; the caller clears it."""
        wake_up = asyncio.Event()
        self._waiting[run_id].add(wake_up)
        try:
            yield wake_up
        finally:
            self._waiting[run_id].discard(wake_up)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    def _wake(self, run_id: str) -> None:
        for wake_up in self._waiting.get(run_id, ()):
            wake_up.set()

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
                return  # this drops the iterator and with it the connection
            if run_id is not None:
                self._in_loop(run_id)
            elif is_fresh:  # notifications before this moment were missed
                self._in_loop(None)
                is_fresh = False

    def _in_loop(self, run_id: str | None) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop ended while we listened
            if run_id is None:
                self._loop.call_soon_threadsafe(self._wake_all)
            else:
                self._loop.call_soon_threadsafe(self._wake, run_id)
