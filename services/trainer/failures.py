"""Why an attempt failed: maps every error to a failure with a code and a message."""

from collections.abc import Mapping
from typing import Any

from services.domain.failures import infra_failure
from services.workers.documents import UnreadableDocumentError
from services.workers.failures import as_of_worker, failure_of_work
from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_reported


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
    if isinstance(error, AttemptFailedError | UnreadableDocumentError):
        return error.failure
    return failure_of_work(error)


def failure_of_child(reported: Mapping[str, Any]) -> Failure:
    """The failure that the training process reported in its last event."""
    return as_of_worker(failure_reported(reported))
