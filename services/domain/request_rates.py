"""Request rates: a token bucket for each tenant and policy, filled evenly within a minute."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class RatePolicy(StrEnum):
    CREATE = "create"
    """Requests that create a run, a dataset or a publication."""
    STREAM = "stream"
    """Opening an event stream."""
    OTHER = "other"
    """Everything else: reading, signing uploads, completing, canceling."""


SHARE: Final = {RatePolicy.CREATE: 1, RatePolicy.STREAM: 1, RatePolicy.OTHER: 5}
"""Requests of each policy for one of the quota ``requests_per_minute``."""
WINDOW_S: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The answer of a tenant's bucket to one request."""

    policy: RatePolicy
    capacity: int
    """Requests that the full bucket allows at once, and within a minute after it was empty."""
    tokens: float
    """That are left after this request."""
    is_allowed: bool

    @property
    def remaining(self) -> int:
        """Requests that are allowed at once from now on."""
        # Another request may have taken the token that was seen here.
        return math.floor(self.tokens) if self.is_allowed else 0

    @property
    def full_after_s(self) -> int:
        """Seconds until the bucket is full again."""
        return math.ceil(self._fill_s(self.capacity))

    @property
    def retry_after_s(self) -> int:
        """Seconds until the next request is allowed; 0 where it is now."""
        return math.ceil(self._fill_s(1))

    def _fill_s(self, tokens: float) -> float:
        if self.capacity == 0:
            return WINDOW_S
        return max(0.0, tokens - self.tokens) * WINDOW_S / self.capacity
