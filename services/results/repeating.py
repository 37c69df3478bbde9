"""A thread that does one thing again and again until its process ends."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeAlias

import structlog

from services.objects.errors import ObjectStoreError
from services.processes.threads import wait_for_end
from services.store.database import TRANSIENT_ERRORS

log = structlog.get_logger(__name__)

_END_S: Final = 10.0
"""The process has several of these threads and 60 s to end; what is cut off is done again."""

IsStopping: TypeAlias = Callable[[], bool]
"""Whether the process is to end; long work asks it between two portions, and goes on later."""


def never() -> bool:
    """An ``IsStopping`` for work that nobody stops."""
    return False


class Repeating:
    """A context manager that works at once and then every ``every_s`` seconds."""

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        every_s: float,
        stopping: threading.Event,
    ) -> None:
        """Not started yet.

        Args:
            name: as of ``attempt``.
            stopping: ends all threads of the process; the end of the context sets it, too.
        """
        self._name = name
        self._work = work
        self._every_s = every_s
        self._stopping = stopping
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        wait_for_end(self._thread, _END_S)

    def _repeat(self) -> None:
        while not self._stopping.is_set():
            attempt(self._name, self._work)
            self._stopping.wait(self._every_s)


def attempt(name: str, work: Callable[[], object]) -> None:
    """Do something that is done again later: what it raises is logged.

    Args:
        name: in the log events ``<name>_postponed`` and ``<name>_failed``.
    """
    try:
        work()
    except (ObjectStoreError, *TRANSIENT_ERRORS) as error:
        log.warning(f"{name}_postponed", error=str(error))
    except Exception:  # the outermost loop of a thread
        log.exception(f"{name}_failed")
