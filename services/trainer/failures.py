"""Why an attempt failed: maps every error to a failure with a code and a message."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from services.domain.failures import infra_failure
from services.objects.errors import ObjectStoreError, WrongClockError
from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_of, failure_reported

log = structlog.get_logger(__name__)


_OF_THE_WORKER: Final = {"disk_full": "worker_disk_full", "disk_failed": "worker_disk_failed"}
"""A disk error's code in any process → its code where the disk is a worker's."""


class AttemptFailedError(Exception):
    """The attempt cannot continue; ``failure`` is the reason that the tenant reads."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def infra_failed(code: str, message: str) -> AttemptFailedError:
    """A part of the service failed; the next attempt may succeed."""
    return AttemptFailedError(infra_failure(code, message))


def platform_failed(code: str, message: str) -> AttemptFailedError:
    """A bug or corrupt data in the service; another attempt would fail in the same way."""
    return AttemptFailedError(
        Failure(code=code, category=Category.PLATFORM, message=message, retryable=False)
    )


def failure_of_attempt(error: Exception) -> Failure:
    """The failure to report for an attempt's error; an unexpected one is logged with traceback."""
    match error:
        case AttemptFailedError():
            return error.failure
        case WrongClockError():
            log.error("clock_wrong", reason=str(error))
            return infra_failure(error.code, "The clock of the worker is wrong.")
        case ObjectStoreError():
            log.error("object_store_failed", code=error.code, reason=str(error))
            return infra_failure(error.code, f"The object store failed ({error.code}).")
    failure = failure_of(error)
    if failure.code not in _OF_THE_WORKER:  # the worker then drains, and says so
        log.error("attempt_failed_unexpectedly", exc_info=error)
    return _of_worker(failure)


def failure_of_child(reported: Mapping[str, Any]) -> Failure:
    """The failure that the training process reported in its last event."""
    return _of_worker(failure_reported(reported))


def _of_worker(failure: Failure) -> Failure:
    return replace(failure, code=_OF_THE_WORKER.get(failure.code, failure.code))
