"""Sends the child's events to the ledger: in order, in batches, at most 5 writes a second."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.ledger import ChildEvent
from services.trainer.context import HeldRun
from services.trainer.lease import NotWantedError

log = structlog.get_logger(__name__)

_WRITE_EVERY_S: Final = 0.2
_STEP_EVERY_S: Final = 0.04
"""Of ``step`` events that follow sooner, only the newest of a batch is kept, by the clock of the
training process: an outage of the ledger leaves no hole in a curve. Other events are all kept."""
_BATCH: Final = 200


class Reporter:
    """Queues events and writes them in a thread, which retries while the database is down."""

    def __init__(self, held: HeldRun) -> None:
        self._ledger = held.context.ledger
        self._claim = held.claim
        self._lease = held.lease
        self._waiting: deque[ChildEvent] = deque()
        self._changed = threading.Condition()
        self._last_step_s = -_STEP_EVERY_S
        """When the last ``step`` event that was kept happened."""
        self._sending: Sequence[ChildEvent] = ()
        """Taken from the queue, and not known to be stored."""
        self._is_closed = False
        self._broken: Exception | None = None
        context = copy_context()  # the thread's log lines name the run
        self._thread = threading.Thread(
            target=context.run, args=(self._write_until_closed,), name="reporter", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            unsent = [*self._sending, *self._waiting]
        if unsent:
            log.warning("events_not_stored", events=len(unsent), step=unsent[-1].step)

    def add(self, event: ChildEvent) -> None:
        """Queue one event."""
        with self._changed:
            self._waiting.append(event)
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the error that ended the thread; no event is stored after it."""
        if self._broken is not None:
            raise self._broken

    def flush(self) -> None:
        """Wait until all events are stored; raises as ``check``, or as ``Lease.check``."""
        with self._changed:
            while self._waiting or self._sending:
                self.check()
                self._lease.check()
                self._changed.wait(0.1)

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                self._sending = [
                    self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))
                ]
            try:
                self._write(self._thinned(self._sending))
            except NotWantedError:
                return  # the attempt finds out from the lease
            except Exception as error:  # noqa: BLE001 - the thread's outermost loop; check() raises it
                self._broken = error
                return
            with self._changed:
                self._sending = ()
                self._changed.notify_all()
            time.sleep(_WRITE_EVERY_S)

    def _write(self, batch: Sequence[ChildEvent]) -> None:
        self._lease.until_answered(
            lambda: self._ledger.event(self._claim.run_id, self._claim.fence, batch), doing="report"
        )

    def _thinned(self, batch: Sequence[ChildEvent]) -> list[ChildEvent]:
        """The batch without steps that follow too soon, in the same order."""
        newest = next((event for event in reversed(batch) if event.type == "step"), None)
        kept = []
        for event in batch:
            if event.type == "step":
                at_s = float(event.data["t_s"])
                if at_s < self._last_step_s + _STEP_EVERY_S and event is not newest:
                    continue
                self._last_step_s = at_s
            kept.append(event)
        return kept
