"""Why an attempt failed: every error becomes a failure with a code of its own."""

import structlog

from services.objects.errors import ObjectStoreError
from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_of

log = structlog.get_logger(__name__)


class AttemptFailedError(Exception):
    """The attempt cannot continue; ``failure`` says why in words for the tenant."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def infra_failed(code: str, message: str) -> AttemptFailedError:
    """Something of the service failed that may work the next time."""
    return AttemptFailedError(
        Failure(code=code, category=Category.INFRA, message=message, retryable=True)
    )


def platform_failed(code: str, message: str) -> AttemptFailedError:
    """The service contradicts itself: another attempt would meet the same."""
    return AttemptFailedError(
        Failure(code=code, category=Category.PLATFORM, message=message, retryable=False)
    )


def failure_of_attempt(error: Exception) -> Failure:
    """What to hand back for any error of an attempt. One that nobody foresaw is logged whole."""
    match error:
        case AttemptFailedError():
            return error.failure
        case ObjectStoreError():
            log.error("object_store_failed", code=error.code, reason=str(error))
            message = f"The object store failed ({error.code})."
            return Failure(
                code=error.code, category=Category.INFRA, message=message, retryable=True
            )
    log.error("attempt_broke", exc_info=error)
    return failure_of(error)
