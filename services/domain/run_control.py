"""What pause, resume and cancel do to a run in each status: a table and one function, no clock."""

from enum import StrEnum
from typing import Final

from services.domain.errors import IllegalTransitionError
from services.domain.states import RunStatus


class Action(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


_S = RunStatus
_ASKED: Final[dict[Action, dict[RunStatus, RunStatus]]] = {
    Action.PAUSE: {
        _S.QUEUED: _S.PAUSING,
        _S.RUNNING: _S.PAUSING,
        _S.PAUSING: _S.PAUSING,
        _S.PAUSED: _S.PAUSED,
    },
    Action.RESUME: {
        _S.QUEUED: _S.QUEUED,
        _S.RUNNING: _S.RUNNING,
        _S.PAUSING: _S.RUNNING,
        _S.PAUSED: _S.QUEUED,
    },
    Action.CANCEL: {
        _S.QUEUED: _S.CANCELING,
        _S.RUNNING: _S.CANCELING,
        _S.PAUSING: _S.CANCELING,
        _S.PAUSED: _S.CANCELING,
        _S.CANCELING: _S.CANCELING,
        _S.CANCELED: _S.CANCELED,
    },
}
"""Status → status after the action, where a worker holds the run. The same status: the action was
done before, and changes nothing. A status that is missing refuses the action."""
_AT_ONCE: Final = {_S.PAUSING: _S.PAUSED, _S.CANCELING: _S.CANCELED}
"""Where nobody holds the run, nobody has to be asked."""
_GOALS: Final = {
    Action.PAUSE: _S.PAUSED,
    Action.RESUME: _S.RUNNING,
    Action.CANCEL: _S.CANCELED,
}


def status_after(action: Action, status: RunStatus, *, is_held: bool) -> RunStatus:
    """The status that the action leads to at once.

    Args:
        is_held: whether a worker holds the run; it is asked then, and has time for a checkpoint.

    Raises IllegalTransitionError where the action comes too late.
    """
    there = _ASKED[action].get(status)
    if there is None:
        raise IllegalTransitionError(here=status, there=_GOALS[action])
    return there if is_held else _AT_ONCE.get(there, there)
