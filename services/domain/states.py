"""The statuses of a run and the transitions between them: a table and one function, no clock."""

from enum import StrEnum
from typing import Final

from services.domain.errors import IllegalTransitionError


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Stage(StrEnum):
    ADMISSION = "admission"
    QUOTA = "quota"
    CAPACITY = "capacity"
    VALIDATING = "validating"
    CACHING = "caching"
    PROVISIONING = "provisioning"
    TRAINING = "training"
    SAMPLING = "sampling"
    CHECKPOINTING = "checkpointing"
    FINALIZING = "finalizing"
    STOPPING = "stopping"


CHARGED_STAGES: Final = frozenset({Stage.TRAINING, Stage.SAMPLING})
"""Stages whose time is charged; a run that is being canceled is charged until it has stopped."""

_S = RunStatus
TRANSITIONS: Final[dict[RunStatus, frozenset[RunStatus]]] = {
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PAUSING, _S.CANCELING, _S.QUEUED, _S.SUCCEEDED, _S.FAILED}),
    # A run may reach its last step before it reads the request to pause.
    _S.PAUSING: frozenset({_S.PAUSED, _S.QUEUED, _S.CANCELING, _S.SUCCEEDED, _S.FAILED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELING, _S.FAILED}),
    _S.CANCELING: frozenset({_S.CANCELED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELED: frozenset(),
}
OVER: Final = frozenset(status for status, next_ in TRANSITIONS.items() if not next_)


def check_transition(here: RunStatus, there: RunStatus) -> None:
    """Raise IllegalTransitionError where the table does not allow ``here`` to become ``there``."""
    if there not in TRANSITIONS[here]:
        raise IllegalTransitionError(here=here, there=there)
