"""Which calls are tried again, and how long to wait before the next try."""

import random
from dataclasses import dataclass
from typing import Final

RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
_LONGEST_WAIT_S: Final = 60.0
"""A longer Retry-After is cut to this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Limits for trying again. Only for calls that may be repeated safely."""

    tries: int = 5
    """The first one included."""
    first_wait_s: float = 0.5
    limit_s: float = 8.0

    def wait_s(self, failed: int, retry_after: str | None) -> float:
        """Seconds before the next try: doubling with jitter, or what the service asked for.

        Args:
            failed: tries that failed so far, from 1.
            retry_after: the header's value; only its form in seconds is read (RFC 9110, 10.2.3).
        """
        asked_s = _seconds(retry_after)
        if asked_s is not None:
            return min(asked_s, _LONGEST_WAIT_S)
        doubled_s = min(self.limit_s, self.first_wait_s * 2.0 ** (failed - 1))
        return doubled_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def is_worth_retrying(status: int, code: str | None) -> bool:
    """Whether the same call may succeed later.

    ``idempotency_in_flight`` counts: the response to the first try was lost, and the service is
    still working on that try.
    """
    return status in RETRIED_STATUSES or (status == 409 and code == "idempotency_in_flight")


def _seconds(header: str | None) -> float | None:
    if header is None or not header.strip().isdigit():
        return None
    return float(header.strip())
