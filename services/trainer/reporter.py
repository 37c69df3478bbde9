"""What the child reported goes to the ledger: in order, in batches, at most 5 writes a second."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self

from services.domain.ledger import ChildEvent, Ledger
from services.trainer.lease import GivenUpError, Lease

_WRITE_EVERY_S: Final = 0.2
_STEPS_KEPT: Final = 5
"""Newest step events of a batch that are written; all others of every kind always are."""
_BATCH: Final = 200


class Reporter:
    """Takes events at once and writes them in a thread of its own, waiting out a database."""

    def __init__(self, ledger: Ledger, run_id: str, fence: int, lease: Lease) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._fence = fence
        self._lease = lease
        self._waiting: deque[ChildEvent] = deque()
        self._changed = threading.Condition()
        self._is_busy = False
        self._is_closed = False
        self._broken: Exception | None = None
        context = copy_context()  # log lines of the thread name the run
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

    def add(self, event: ChildEvent) -> None:
        """Queue one event."""
        with self._changed:
            self._waiting.append(event)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all events stand; raises GivenUpError once the run is no longer ours."""
        with self._changed:
            while self._waiting or self._is_busy:
                if self._broken is not None:
                    raise self._broken
                self._lease.check()
                self._changed.wait(0.1)

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                self._is_busy = True
            try:
                self._write(thinned(batch))
            except GivenUpError:
                return  # whoever asks the lease learns it
            except Exception as error:  # noqa: BLE001 - the thread's outermost loop; flush() raises it
                self._broken = error
                return
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
            time.sleep(_WRITE_EVERY_S)

    def _write(self, batch: Sequence[ChildEvent]) -> None:
        self._lease.until_answered(
            lambda: self._ledger.event(self._run_id, self._fence, batch), doing="report"
        )


def thinned(batch: Sequence[ChildEvent]) -> list[ChildEvent]:
    """The batch with only its newest few ``step`` events, in the same order."""
    steps = [event for event in batch if event.type == "step"]
    kept = {id(event) for event in steps[-_STEPS_KEPT:]}
    return [event for event in batch if event.type != "step" or id(event) in kept]
