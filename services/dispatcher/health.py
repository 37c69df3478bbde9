"""Whether this dispatcher may judge others: only when it has itself been well for a whole lease."""

import time
from collections.abc import Callable
from typing import Final


def since_boot_s() -> float:
    """Seconds since the machine started, those counted that it slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Health:
    """Counts how long the database has been answering without a gap.

    After an outage, a freeze or a sleep every lease looks dead, though the holders were only cut
    off as we were; so each of them gets one fresh lease to renew in. A gap of less than a third of
    a lease does no harm: holders renew at least that often, so two thirds are left to them.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = since_boot_s) -> None:
        self._lease_s: Final = lease_s
        self._longest_gap_s: Final = lease_s / 3
        self._clock = clock
        self._last_answer_s = clock()
        self._well_since_s = self._last_answer_s

    def note_answer(self) -> None:
        """The database answered just now."""
        now_s = self._clock()
        if now_s - self._last_answer_s > self._longest_gap_s:
            self._well_since_s = now_s
        self._last_answer_s = now_s

    def note_outage(self) -> None:
        """The database did not answer: begin to count anew."""
        self._well_since_s = self._last_answer_s = self._clock()

    @property
    def may_judge(self) -> bool:
        """Whether a lease that looks dead now is dead."""
        now_s = self._clock()
        has_gap = now_s - self._last_answer_s > self._longest_gap_s
        return not has_gap and now_s - self._well_since_s >= self._lease_s
