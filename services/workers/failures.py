"""Maps every error in a piece of work to a failure, as one of its worker where it is that."""

from dataclasses import replace
from typing import Final

import structlog

from services.domain.attempt_budgets import DEATHS, WORKER_FAULTS
from services.domain.failures import infra_failure, store_failed
from services.objects.errors import ObjectStoreError, WrongClockError
from trainer_core.errors import BaseModelError
from trainer_core.process.failure import MACHINE_CODES, Failure, failure_of

log = structlog.get_logger(__name__)

BASE_MODEL_DAMAGED: Final = infra_failure(
    "base_model_damaged", "The worker's copy of the base model is damaged or incomplete."
)
"""Another worker may have a whole one. The message names no path; the log does."""
_OF_THE_WORKER: Final = {"disk_full": "worker_disk_full", "disk_failed": "worker_disk_failed"}
"""A disk error's code in any process → its code where the disk is a worker's."""


def failure_of_work(error: Exception) -> Failure:
    """The failure to report for an error; an unexpected one is logged with traceback."""
    match error:
        case WrongClockError():
            log.error("clock_wrong", reason=str(error))
            return infra_failure(error.code, "The clock of the worker is wrong.")
        case ObjectStoreError():
            log.error("object_store_failed", code=error.code, reason=str(error))
            return store_failed(error.code)
        case BaseModelError():
            return as_of_worker(failure_of(error))
    failure = failure_of(error)
    if failure.code not in _OF_THE_WORKER:  # the worker then drains, and says so
        log.error("work_failed_unexpectedly", exc_info=error)
    return as_of_worker(failure)


def as_of_worker(failure: Failure) -> Failure:
    """A failure that a child process reported; its disk and its base model are the worker's."""
    if failure.code == BaseModelError.code:
        log.error(BASE_MODEL_DAMAGED.code, reason=failure.message)
        return BASE_MODEL_DAMAGED
    return replace(failure, code=_OF_THE_WORKER.get(failure.code, failure.code))


def is_only_of_worker(failure: Failure) -> bool:
    """Whether the work itself cannot have caused the failure."""
    return failure.code in (WORKER_FAULTS | MACHINE_CODES) - DEATHS
