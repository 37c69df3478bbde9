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
"""Stages of the training process whose time is charged, whatever the run's status is."""

_S = RunStatus
TRANSITIONS: Final[dict[RunStatus, frozenset[RunStatus]]] = {
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELING, _S.FAILED}),
    # A run that nobody holds is paused at once.
    _S.RUNNING: frozenset(
        {_S.PAUSING, _S.PAUSED, _S.CANCELING, _S.QUEUED, _S.SUCCEEDED, _S.FAILED}
    ),
    # A pause can be taken back, and a run may reach its last step before it reads the request.
    _S.PAUSING: frozenset({_S.PAUSED, _S.RUNNING, _S.CANCELING, _S.SUCCEEDED, _S.FAILED}),
    # It goes on in ``running`` where its shards are still being built.
    _S.PAUSED: frozenset({_S.QUEUED, _S.RUNNING, _S.CANCELING, _S.FAILED}),
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
