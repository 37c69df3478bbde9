"""Failures that the service itself reports, and the pauses between tries."""

import random
from datetime import timedelta
from typing import Final

from services.domain.attempt_budgets import DEATHS
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

VERIFICATION_FAILED: Final = "verification_failed"
"""Code of a dataset that the service itself failed to verify, and of the runs that name it."""

ENTRY_MISSING: Final = "entry_missing"
"""Code of an attempt one of whose cache entries is in no shard: the run is indexed again."""

_TOO_MUCH: Final = (
    " The run may be too much for a worker: lower train_batch_size or resolution, or ask the"
    " operator of the service."
)


def infra_failure(code: str, message: str) -> Failure:
    """A part of the service failed; a later try may succeed."""
    return Failure(code=code, category=Category.INFRA, message=message, retryable=True)


def worker_lost() -> Failure:
    """The holder stopped renewing its lease: it was killed, disconnected, or its machine failed."""
    return infra_failure("worker_lost", "The worker that held the run was lost.")


def unexplained() -> Failure:
    """The holder handed the run back as failed, without a failure."""
    return infra_failure("unexplained", "The attempt ended without giving a reason.")


def store_failed(code: str) -> Failure:
    """The object store does not answer, or refuses; ``code``: of the store's error."""
    return infra_failure(code, f"The object store failed ({code}).")


def start_damaged(name: str) -> Failure:
    """The stored adapter that a run starts from is gone or damaged; ``name``: of ``shown``."""
    return Failure(
        code="start_adapter_corrupt",
        category=Category.INFRA,
        message=(
            f"init_lora: {name} is missing or damaged in the store. Start from another adapter, or "
            "ask the operator of the service."
        ),
        retryable=False,
    )


def attempts_exhausted(attempts: int, last: Failure) -> Failure:
    """The run used up its attempts: none of the last ``attempts`` stored a new checkpoint."""
    way_out = _TOO_MUCH if last.code in DEATHS else ""
    return Failure(
        code="attempts_exhausted",
        category=last.category,
        message=(
            f"{attempts} attempts in a row made no progress; the last one: {last.message}{way_out}"
        ),
        retryable=False,
    )


def backoff(tries: int, *, first: timedelta, limit: timedelta) -> timedelta:
    """The pause before the next try: doubled with each try, then multiplied by a random 0.5 to 1.

    Args:
        tries: failed tries so far; 0 gives at most ``first``.
    """
    doubled = min(limit, first * (1 << min(tries, 20)))
    return doubled * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def internal_error() -> Failure:
    """An unexpected error; the log has its traceback."""
    return Failure(
        code="internal_error",
        category=Category.PLATFORM,
        message="The service failed while it worked on this run; this is a fault of the service.",
        retryable=True,
    )


def database_restored() -> Failure:
    """The database was restored from a backup, so an attempt cannot go on."""
    message = (
        "The service's database was restored from a backup; the run goes on from a checkpoint."
    )
    return infra_failure("database_restored", message)


def indexing_died(tries: int) -> Failure:
    """Each try to index the run's data ended the process."""
    return Failure(
        code="indexing_died",
        category=Category.PLATFORM,
        message=(
            f"The service died {tries} times in a row while it prepared the run's data, perhaps for"
            " want of memory. Use datasets with fewer files or shorter captions."
        ),
        retryable=False,
    )


def indexing_interrupted() -> Failure:
    """The process that indexed the run's data died or took too long."""
    return infra_failure(
        "indexing_interrupted", "The process that prepared the run's data died; it is tried again."
    )


def older_builders(times: int) -> Failure:
    """Only cache builders of the version before are left, which index a run for older trainers."""
    message = (
        f"Cache builders of an earlier version have prepared the run's data {times} times, and the"
        " trainers cannot read it. The operator of the service has to upgrade the cache builders."
    )
    return infra_failure("cache_builders_outdated", message)


def database_busy() -> Failure:
    """A lock was not free in time, or a statement took too long."""
    message = "The database was too busy to continue with this run; it is tried again."
    return infra_failure("database_busy", message)
