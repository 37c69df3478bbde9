"""Learning rates by step, compared with formulas written out here."""

import math
from typing import Any

import pytest

from trainer_core.config.plan import SchedulePlan
from trainer_core.optim.schedule import learning_rate_at


def schedule(name: str, **fields: Any) -> SchedulePlan:
    given = {"warmup_steps": 0, "end": 0.0, "power": 1.0, "period_steps": None, **fields}
    return SchedulePlan.model_validate({"name": name, **given})


def rates(plan: SchedulePlan, steps: int) -> list[float]:
    return [learning_rate_at(step, plan, 2.0, steps) for step in range(1, steps + 1)]


def test_constant_never_warms_up() -> None:
    assert rates(schedule("constant", warmup_steps=5), 3) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine", "polynomial"])
def test_a_warm_up_starts_above_zero_and_ends_at_the_peak(name: str) -> None:
    found = rates(schedule(name, warmup_steps=4), 10)

    assert found[:4] == [0.5, 1.0, 1.5, 2.0]
    assert max(found) == found[3]


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
def test_a_decay_starts_at_the_peak_and_ends_above_zero(name: str) -> None:
    found = rates(schedule(name), 10)

    assert found[0] == 2.0
    assert found == sorted(set(found), reverse=True)
    assert found[-1] > 0.01


def test_linear_falls_in_equal_parts_and_would_be_zero_after_the_last_step() -> None:
    assert rates(schedule("linear"), 4) == [2.0, 1.5, 1.0, 0.5]
    assert rates(schedule("linear", warmup_steps=2), 4) == pytest.approx([1, 2, 4 / 3, 2 / 3])


def test_linear_ignores_the_end_rate() -> None:
    assert rates(schedule("linear", end=1.0), 4) == rates(schedule("linear"), 4)


def test_polynomial_falls_to_the_end_rate_by_its_power() -> None:
    expected = [0.5 + 1.5 * (1 - done / 5) ** 0.8 for done in range(5)]

    assert rates(schedule("polynomial", end=0.5, power=0.8), 5) == pytest.approx(expected)


def test_cosine_falls_once_over_the_run() -> None:
    expected = [0.4 + 1.6 * (1 + math.cos(math.pi * done / 5)) / 2 for done in range(5)]

    assert rates(schedule("cosine", end=0.4), 5) == pytest.approx(expected)


def test_cosine_with_a_period_jumps_back_to_the_peak() -> None:
    found = rates(schedule("cosine", warmup_steps=2, period_steps=3), 9)

    fall = [2.0, 1.5, 0.5]
    assert found == pytest.approx([1.0, *fall, *fall, *fall[:2]])


def test_cosine_with_a_period_does_not_depend_on_the_runs_length() -> None:
    plan = schedule("cosine", period_steps=3)

    assert not plan.follows_length
    assert rates(plan, 5) == rates(plan, 50)[:5]


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
def test_a_run_of_one_step_and_one_that_only_warms_up(name: str) -> None:
    assert rates(schedule(name), 1) == [2.0]
    assert rates(schedule(name, warmup_steps=8), 3) == [0.25, 0.5, 0.75]
    assert rates(schedule(name, warmup_steps=3), 3)[-1] == 2.0


def test_there_is_no_step_zero() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        learning_rate_at(0, schedule("constant"), 1.0, 5)
