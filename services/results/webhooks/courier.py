"""Has events sent to webhooks, by a process of their own that lives for about a minute.

Python cannot wipe memory: what a process has held may be found in it until it ends. So signing
secrets are opened in a process that ends soon; the results process holds sealed ones only. A
process for each event would take longer to start than to send it.
"""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, Self

import structlog

from services.metrics.work import webhook_tries
from services.results.repeating import Repeating
from services.results.webhooks.sender import send_due
from services.store import webhook_work
from services.store.database import Database

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
_STOP_EVERY_S: Final = 0.2
_END_S: Final = 3.0
"""For the sending process, after it was asked to end."""


class Courier:
    """A thread that looks for events to send; a context manager."""

    def __init__(self, database: Database, *, stopping: threading.Event) -> None:
        """Not started yet. ``stopping``: as of ``Repeating``."""
        self._database = database
        self._stopping = stopping
        self._thread = Repeating("webhooks", self.work, every_s=LOOK_EVERY_S, stopping=stopping)

    def work(self) -> None:
        """Send what is due, if anything is. Raises DatabaseDownError or DatabaseBusyError."""
        with self._database.transaction() as conn:
            if not webhook_work.is_due(conn):
                return
        own = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
        ours, theirs = own.Pipe(duplex=False)
        process = own.Process(target=send_due, args=(theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()  # so that ours ends with the process
        try:
            self._follow(ours, process)
        finally:
            ours.close()
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join()
        if process.exitcode != 0:
            log.error("sending_process_died", exitcode=process.exitcode)

    def _follow(self, outcomes: Connection, process: multiprocessing.process.BaseProcess) -> None:
        """Count what the process does until it ends; ask it to end where this one has to."""
        ends_at: float | None = None
        while True:
            if outcomes.poll(_STOP_EVERY_S):
                try:
                    webhook_tries.labels(outcome=outcomes.recv_bytes().decode()).inc()
                except EOFError:
                    return
            elif ends_at is None and self._stopping.is_set():
                process.terminate()
                ends_at = time.monotonic() + _END_S
            elif ends_at is not None and time.monotonic() > ends_at:
                log.warning("sending_process_killed", waited_s=_END_S)
                process.kill()  # what it was sending is sent again
                return

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.__exit__(kind, error, trace)
