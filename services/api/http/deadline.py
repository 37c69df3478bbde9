"""A deadline that may be moved."""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls a function unless it is cleared, or set anew, in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def set(self, seconds: float, late: Callable[[], None]) -> None:
        self.clear()
        self._timer = self._loop.call_later(seconds, self._ring, late)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self, late: Callable[[], None]) -> None:
        self._timer = None
        late()
