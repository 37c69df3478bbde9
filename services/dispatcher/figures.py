"""Reads the figures of the queue every few seconds, beside the rounds."""

import threading
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import structlog

from services.metrics.queue import queue_figures
from services.store import queue_figures as store
from services.store.database import TRANSIENT_ERRORS, Database

log = structlog.get_logger(__name__)

READ_EVERY_S: Final = 5.0
_JOIN_S: Final = 5.0


class Figures:
    """A thread that reads them, with a connection that the rounds do not wait for."""

    def __init__(
        self, database: Database, *, silence: timedelta, every_s: float = READ_EVERY_S
    ) -> None:
        """``silence``: a worker without a heartbeat for this long is silent."""
        self._database = database
        self._silence = silence
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_until_closed, name="figures", daemon=True)

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
        self._thread.join(_JOIN_S)

    def _read_until_closed(self) -> None:
        while True:
            try:
                with self._database.transaction() as conn:
                    queue_figures.set(store.read(conn, silence=self._silence))
            except TRANSIENT_ERRORS as error:
                queue_figures.set(None)  # old figures would hide the outage
                log.warning("figures_not_read", error=type(error).__name__)
            except Exception:  # the thread's outermost loop: the rounds must go on
                queue_figures.set(None)
                log.exception("figures_not_read")
            if self._closing.wait(self._every_s):
                return
