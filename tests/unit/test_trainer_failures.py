"""Errors of the supervisor and of its child get the codes that drain the worker."""

import errno

import pytest

from services.domain.attempt_budgets import WORKER_FAULTS
from services.trainer.failures import failure_of_attempt, failure_of_child
from trainer_core.errors import BaseModelError
from trainer_core.process.failure import failure_as_json, failure_of


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "worker_disk_full"),
        (errno.EDQUOT, "worker_disk_full"),
        (errno.EIO, "worker_disk_failed"),
        (errno.EROFS, "worker_disk_failed"),
    ],
)
def test_a_disk_error_is_the_workers_wherever_it_happens(number: int, code: str) -> None:
    error = OSError(number, "m")
    own, reported = failure_of_attempt(error), failure_of_child(failure_as_json(failure_of(error)))

    assert own == reported
    assert (own.code, own.category, own.retryable) == (code, "infra", True)
    assert own.code in WORKER_FAULTS


def test_a_damaged_base_model_is_the_workers_and_its_path_stays_there() -> None:
    error = BaseModelError("/srv/models/full/vae/model.safetensors is cut off")
    own, reported = failure_of_attempt(error), failure_of_child(failure_as_json(failure_of(error)))

    assert own == reported
    assert (own.code, own.category, own.retryable) == ("base_model_damaged", "infra", True)
    assert own.code in WORKER_FAULTS  # it pauses, and does not use up the attempts of many runs
    assert own.message == "The worker's copy of the base model is damaged or incomplete."


def test_another_error_of_the_child_keeps_its_code() -> None:
    failure = failure_of(ValueError())
    assert failure_of_child(failure_as_json(failure)) == failure
