"""How fast a run goes, and when that is worth an event."""

import time
from typing import Final

_EVERY_STEP_UP_TO: Final = 200
"""Runs of at most so many steps report each."""
_AT_MOST_EVERY_S: Final = 0.2


class Pace:
    """Steps per second since the start or the last pause, and the thinning of step events."""

    def __init__(self, last_step: int) -> None:
        self._last_step = last_step
        self._first = 0
        self._started_s = time.monotonic()
        self._told_s = float("-inf")

    def start(self, step: int) -> None:
        """Count from here: so many steps are done."""
        self._first = step
        self._started_s = time.monotonic()

    def steps_per_s(self, step: int) -> float | None:
        """Mean speed up to ``step``; None where no time has passed."""
        elapsed_s = time.monotonic() - self._started_s
        return (step - self._first) / elapsed_s if elapsed_s > 0 and step > self._first else None

    def is_due(self, step: int) -> bool:
        """Whether this step is reported: all of a small run, of others about five a second."""
        now_s = time.monotonic()
        if (
            self._last_step > _EVERY_STEP_UP_TO
            and step < self._last_step
            and now_s - self._told_s < _AT_MOST_EVERY_S
        ):
            return False
        self._told_s = now_s
        return True
