"""Pause, resume and cancel: what each of them does to a run in each status."""

import pytest

from services.domain.errors import IllegalTransitionError
from services.domain.run_control import Action, status_after
from services.domain.states import TRANSITIONS, RunStatus

REFUSED = "refused"
TABLE = """
status     held  pause    resume   cancel
queued     no    paused   queued   canceled
running    no    paused   running  canceled
running    yes   pausing  running  canceling
pausing    yes   pausing  running  canceling
paused     no    paused   queued   canceled
canceling  yes   refused  refused  canceling
succeeded  no    refused  refused  refused
failed     no    refused  refused  refused
canceled   no    refused  refused  canceled
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]
CELLS = [
    (Action(action), RunStatus(status), held == "yes", outcome)
    for status, held, *outcomes in ROWS
    for action, outcome in zip(("pause", "resume", "cancel"), outcomes, strict=True)
]


@pytest.mark.parametrize(("action", "status", "is_held", "outcome"), CELLS)
def test_the_table(action: Action, status: RunStatus, is_held: bool, outcome: str) -> None:
    if outcome == REFUSED:
        with pytest.raises(IllegalTransitionError, match=f"{status} run cannot become"):
            status_after(action, status, is_held=is_held)
        return
    there = status_after(action, status, is_held=is_held)
    assert there == outcome
    # A run that is canceled passes through ``canceling``.
    path = (RunStatus.CANCELING, there) if there == RunStatus.CANCELED else (there,)
    here = status
    for each in path:
        assert each == here or each in TRANSITIONS[here] or here == RunStatus.CANCELED
        here = each


def test_every_status_and_action_is_in_the_table() -> None:
    assert {status for _, status, _, _ in CELLS} == set(RunStatus)
    assert {action for action, _, _, _ in CELLS} == set(Action)


@pytest.mark.parametrize(("action", "status", "is_held", "outcome"), CELLS)
def test_an_action_that_is_repeated_changes_nothing_more(
    action: Action, status: RunStatus, is_held: bool, outcome: str
) -> None:
    if outcome != REFUSED:
        there = RunStatus(outcome)
        assert status_after(action, there, is_held=is_held) == there
