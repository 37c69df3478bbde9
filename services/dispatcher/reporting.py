"""Reports every few seconds, beside the rounds, what waits and which parts of the service work."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import structlog

from services.metrics import dispatching as metrics
from services.metrics.queue import queue_figures
from services.processes.threads import wait_for_end
from services.store import health
from services.store import queue_figures as store
from services.store.database import TRANSIENT_ERRORS, Database

log = structlog.get_logger(__name__)

REPORT_EVERY_S: Final = 5.0
_LONGEST_ROUND_S: Final = 30.0
_JOIN_S: Final = 5.0


class Reporting:
    """A thread of its own, so that neither it nor the rounds wait."""

    def __init__(
        self,
        database: Database,
        *,
        is_broker_up: Callable[[], bool],
        silence: timedelta,
        every_s: float = REPORT_EVERY_S,
    ) -> None:
        """``silence``: a worker without a heartbeat for this long is silent."""
        self._database = database
        self._is_broker_up = is_broker_up
        self._silence = silence
        self._every_s = every_s
        self._round_ended_s = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._report_until_closed, name="reporting", daemon=True
        )

    def round_ended(self) -> None:
        """Record that a round came to its end; without one for half a minute something is wrong."""
        self._round_ended_s = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        wait_for_end(self._thread, _JOIN_S)

    def _report_until_closed(self) -> None:
        while True:
            try:
                self._report()
            except TRANSIENT_ERRORS as error:
                queue_figures.set(None)  # old figures would hide the outage
                log.warning("figures_not_read", error=type(error).__name__)
            except Exception:  # the thread's outermost loop: the rounds must go on
                queue_figures.set(None)
                log.exception("figures_not_read")
            if self._closing.wait(self._every_s):
                return

    def _report(self) -> None:
        is_broker_up = self._is_broker_up()
        metrics.broker_up.set(is_broker_up)
        is_round_fresh = time.monotonic() - self._round_ended_s < _LONGEST_ROUND_S
        with self._database.transaction() as conn:
            health.note(conn, health.DISPATCHER, is_ok=is_round_fresh)
            health.note(conn, health.BROKER, is_ok=is_broker_up)
        with self._database.transaction() as conn:
            queue_figures.set(store.read(conn, silence=self._silence))
