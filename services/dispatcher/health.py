"""Whether a lease that ran out means a dead holder: only if the database answered all along."""

import time
from collections.abc import Callable
from typing import Final


def since_boot_s() -> float:
    """Seconds since the machine started, those counted that it slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Health:
    """Counts how long the database has been answering this dispatcher without a gap.

    After an outage, a freeze or a sleep of the machine every lease looks dead, though its holder
    was only cut off for the same time. So holders get one whole lease to renew in. A gap of less
    than a third of a lease is harmless: holders renew at least that often.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = since_boot_s) -> None:
        self._lease_s: Final = lease_s
        self._longest_gap_s: Final = lease_s / 3
        self._clock = clock
        self._last_answer_s = clock()
        self._answering_since_s = self._last_answer_s

    def note_answer(self) -> None:
        """The database answered just now."""
        now_s = self._clock()
        if now_s - self._last_answer_s > self._longest_gap_s:
            self._answering_since_s = now_s
        self._last_answer_s = now_s

    def note_outage(self) -> None:
        """The database did not answer: count from now."""
        self._answering_since_s = self._last_answer_s = self._clock()

    @property
    def trusts_leases(self) -> bool:
        """Whether a lease that ran out belongs to a dead holder."""
        now_s = self._clock()
        has_gap = now_s - self._last_answer_s > self._longest_gap_s
        return not has_gap and now_s - self._answering_since_s >= self._lease_s
