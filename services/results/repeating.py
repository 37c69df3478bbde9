"""A thread that does one thing again and again until its process ends."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from services.objects.errors import ObjectStoreError
from services.store.database import TRANSIENT_ERRORS

log = structlog.get_logger(__name__)

_JOIN_S: Final = 30.0


class Repeating:
    """A context manager that works at once and then every ``every_s`` seconds."""

    def __init__(self, name: str, work: Callable[[], object], *, every_s: float) -> None:
        """Not started yet.

        Args:
            name: in the log events ``<name>_postponed`` and ``<name>_failed``.
            work: whatever it raises is logged, and it is called again later.
        """
        self._name = name
        self._work = work
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether the work should end soon; it is asked between two pieces of it."""
        return self._stopping.is_set()

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
        self._thread.join(_JOIN_S)

    def _repeat(self) -> None:
        while True:
            try:
                self._work()
            except (ObjectStoreError, *TRANSIENT_ERRORS) as error:
                log.warning(f"{self._name}_postponed", error=str(error))
            except Exception:  # the thread's outermost loop: it tries again
                log.exception(f"{self._name}_failed")
            if self._stopping.wait(self._every_s):
                return
