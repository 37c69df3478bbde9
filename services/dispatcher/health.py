"""Whether an expired lease means a dead holder: only if the database was reachable all the time."""

import time
from collections.abc import Callable
from typing import Final


def since_boot_s() -> float:
    """Seconds since the machine booted, including time in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Health:
    """Measures for how long the database has answered this dispatcher without a gap.

    After an outage or a suspend of the machine every lease looks expired, although its holder was
    only disconnected for the same time. So holders get one whole lease in which to renew. A gap of
    less than a third of a lease is harmless: holders renew at least that often.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = since_boot_s) -> None:
        self._lease_s: Final = lease_s
        self._longest_gap_s: Final = lease_s / 3
        self._clock = clock
        self._last_answer_s = clock()
        self._answering_since_s = self._last_answer_s

    def note_answer(self) -> None:
        """Record that the database answered just now."""
        now_s = self._clock()
        if now_s - self._last_answer_s > self._longest_gap_s:
            self._answering_since_s = now_s
        self._last_answer_s = now_s

    def note_outage(self) -> None:
        """Record an outage: the time without a gap starts again now."""
        self._answering_since_s = self._last_answer_s = self._clock()

    @property
    def trusts_leases(self) -> bool:
        """Whether the holder of an expired lease can be considered dead."""
        now_s = self._clock()
        has_gap = now_s - self._last_answer_s > self._longest_gap_s
        return not has_gap and now_s - self._answering_since_s >= self._lease_s
