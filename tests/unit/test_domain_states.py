"""The table of transitions: what it allows, and that every run can end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.errors import IllegalTransitionError
from services.domain.states import OVER, TRANSITIONS, RunStatus, check_transition


def test_every_status_is_in_the_table_and_three_are_final() -> None:
    assert set(TRANSITIONS) == set(RunStatus)
    assert {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELED} == OVER


def test_every_status_can_reach_an_end_and_all_but_the_ended_can_be_canceled() -> None:
    reaches_end = set(OVER)
    for _ in RunStatus:
        reaches_end |= {here for here, there in TRANSITIONS.items() if there & reaches_end}
    assert reaches_end == set(RunStatus)
    for status in set(RunStatus) - OVER - {RunStatus.CANCELING}:
        assert RunStatus.CANCELING in TRANSITIONS[status]


@given(st.sampled_from(RunStatus), st.sampled_from(RunStatus))
def test_a_transition_is_allowed_exactly_where_the_table_has_an_arrow(
    here: RunStatus, there: RunStatus
) -> None:
    if there in TRANSITIONS[here]:
        check_transition(here, there)
    else:
        with pytest.raises(IllegalTransitionError, match=f"{here} run cannot become {there}"):
            check_transition(here, there)
