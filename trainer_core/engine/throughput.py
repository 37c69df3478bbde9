"""How fast a run trains, and which steps are reported."""

import time
from typing import Final

_REPORT_ALL_UP_TO: Final = 200
"""A run of at most this many steps reports every step."""
_REPORT_INTERVAL_S: Final = 0.2
"""A longer run reports a step at most this often."""


class Throughput:
    """Steps per second since the start or the last pause, and which steps are reported."""

    def __init__(self, last_step: int) -> None:
        self._last_step = last_step
        self._first_step = 0
        self._started_s = time.monotonic()
        self._reported_s = float("-inf")

    def start(self, step: int) -> None:
        """Measure from now on; ``step`` steps are done."""
        self._first_step = step
        self._started_s = time.monotonic()

    def steps_per_s(self, step: int) -> float | None:
        """Mean since ``start`` up to ``step``; None where no step or no time has passed."""
        elapsed_s = time.monotonic() - self._started_s
        steps = step - self._first_step
        return steps / elapsed_s if elapsed_s > 0 and steps > 0 else None

    def is_due(self, step: int) -> bool:
        """Whether to report this step now. True counts as a report.

        Every step of a short run is due, and the last step of any run. Of the others about five a
        second are.
        """
        now_s = time.monotonic()
        if (
            self._last_step > _REPORT_ALL_UP_TO
            and step < self._last_step
            and now_s - self._reported_s < _REPORT_INTERVAL_S
        ):
            return False
        self._reported_s = now_s
        return True
