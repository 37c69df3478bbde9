"""The failures that the service itself decides, and the pauses between tries."""

import random
from datetime import timedelta

from trainer_core.errors import Category
from trainer_core.process.failure import Failure


def worker_lost() -> Failure:
    """A holder stopped renewing: killed, cut off, or its machine is gone."""
    return Failure(
        code="worker_lost",
        category=Category.INFRA,
        message="The worker that held the run was lost.",
        retryable=True,
    )


def unexplained() -> Failure:
    """A holder gave up and did not say why."""
    return Failure(
        code="unexplained",
        category=Category.INFRA,
        message="The attempt ended without saying why.",
        retryable=True,
    )


def attempts_exhausted(attempts: int, last: Failure) -> Failure:
    """So many attempts in a row brought no new checkpoint."""
    return Failure(
        code="attempts_exhausted",
        category=last.category,
        message=f"{attempts} attempts in a row made no progress; the last one: {last.message}",
        retryable=False,
    )


def backoff(tries: int, *, first: timedelta, limit: timedelta) -> timedelta:
    """How long to wait after so many tries: doubling, with jitter of half.

    Args:
        tries: done so far without success; 0 gives about ``first``.
    """
    doubled = min(limit, first * (1 << min(tries, 20)))
    return doubled * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
