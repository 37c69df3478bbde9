"""A worker's heartbeat: it is alive, whether it is draining, and which run it holds."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.ledger import Ledger, LedgerDownError, Worker
from services.processes.threads import wait_for_end
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_LAST_BEAT_S: Final = 3.0


class Heartbeat:
    """A thread that registers the worker every ``every_s`` seconds, the first time at once."""

    def __init__(
        self,
        ledger: Ledger,
        worker: Worker,
        *,
        every_s: float,
        is_draining: Callable[[], bool],
        run_id: Callable[[], str | None],
        drain_reason: Callable[[], Failure | None] = lambda: None,
    ) -> None:
        """
        Args:
            is_draining: whether the worker was asked to stop.
            drain_reason: why it cannot work now; it then counts as draining.
        """
        self._ledger = ledger
        self._worker = worker
        self._every_s = every_s
        self._is_draining = is_draining
        self._run_id = run_id
        self._drain_reason = drain_reason
        self._is_closing = False
        self._awake = threading.Event()
        self._thread = threading.Thread(
            target=self._beat_until_closed, name="heartbeat", daemon=True
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
        """Send a last heartbeat, as draining, so that a worker that has ended gets no offer."""
        self._is_closing = True
        self._awake.set()
        wait_for_end(self._thread, _LAST_BEAT_S)

    def wake(self) -> None:
        """Send a heartbeat at once; may be called in a signal handler."""
        self._awake.set()

    def _beat_until_closed(self) -> None:
        while True:
            is_last = self._is_closing
            try:
                reason = self._drain_reason()
                self._ledger.register(
                    self._worker,
                    draining=is_last or self._is_draining() or reason is not None,
                    drain_reason=reason,
                    run_id=self._run_id(),
                )
            except LedgerDownError as error:
                log.warning("heartbeat_failed", error=type(error).__name__)
            except Exception:  # the thread's outermost loop: without heartbeats it gets no work
                log.exception("heartbeat_failed_unexpectedly")
            if is_last:
                return
            self._awake.wait(self._every_s)
            self._awake.clear()
