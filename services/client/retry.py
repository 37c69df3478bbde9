"""Which calls are tried again, and how long to wait before the next try."""

import random
from dataclasses import dataclass
from typing import Final

import httpx

from services.client.errors import ProblemError, ServiceUnreachableError

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
    if header is None or not header.strip().isdecimal():
        return None
    return float(header.strip())


class Tries:
    """The tries of one call that failed so far."""

    def __init__(self, retry: Retry, url: str) -> None:
        self._retry = retry
        self._url = url
        self.failed = 0

    def after_error(self, error: httpx.TransportError | httpx.StreamError) -> float:
        """Seconds to wait after a try without an answer. Raises ServiceUnreachableError."""
        self.failed += 1
        if self.failed >= self._retry.tries or not _may_pass(error):
            reason = str(error) or type(error).__name__
            message = f"the service at {self._url} cannot be reached: {reason}"
            raise ServiceUnreachableError(message) from error
        return self._retry.wait_s(self.failed, None)

    def after_refusal(self, answer: httpx.Response) -> float:
        """Seconds to wait after a refusal, whose body was read. Raises ProblemError."""
        self.failed += 1
        problem = problem_of(answer)
        is_last = self.failed >= self._retry.tries
        if is_last or not is_worth_retrying(problem.status, problem.code):
            raise problem
        return self._retry.wait_s(self.failed, answer.headers.get("Retry-After"))


def problem_of(answer: httpx.Response) -> ProblemError:
    """The answer's problem; its body has to be read already."""
    try:
        body: object = answer.json()
    except ValueError:
        body = None
    request_id = answer.headers.get("X-Request-Id")
    return ProblemError.of_answer(answer.status_code, body, request_id=request_id)


def _may_pass(error: Exception) -> bool:
    """Whether another try can help; a wrong scheme or a malformed header never gets right."""
    return not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
