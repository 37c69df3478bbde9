"""Limits of a run: which one is reached, and how many seconds are left."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.domain.run_limits import LimitedUse, budget_s, reached

DEADLINE = datetime(2026, 12, 1, tzinfo=UTC)


def use(**facts: Any) -> LimitedUse:
    nothing: dict[str, Any] = {
        "max_cost_micros": None,
        "max_gpu_s": None,
        "deadline": None,
        "is_past_deadline": False,
        "cost_micros": 0,
        "charged_s": 0.0,
        "price_micros_per_hour": 0,
    }
    return LimitedUse(**{**nothing, **facts})


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"cost_micros": 10**9, "charged_s": 1e9}, None),
        ({"max_cost_micros": 100, "cost_micros": 99}, None),
        ({"max_cost_micros": 100, "cost_micros": 100}, "cost_limit_reached"),
        ({"max_gpu_s": 60.0, "charged_s": 59.9}, None),
        ({"max_gpu_s": 60.0, "charged_s": 60.0}, "gpu_hours_limit_reached"),
        ({"deadline": DEADLINE}, None),
        ({"deadline": DEADLINE, "is_past_deadline": True}, "deadline_reached"),
    ],
)
def test_a_limit_is_reached_exactly_where_it_is_used_up(
    facts: dict[str, Any], code: str | None
) -> None:
    reason = reached(use(**facts))
    assert (None if reason is None else reason.code) == code
    if reason is not None:
        assert (reason.category, reason.retryable) == ("quota", False)
        assert "resume the run" in reason.message


@pytest.mark.parametrize(
    ("facts", "left_s"),
    [
        ({}, None),
        ({"deadline": DEADLINE}, None),
        ({"max_gpu_s": 100.0, "charged_s": 40.0}, 60),
        ({"max_gpu_s": 100.0, "charged_s": 140.0}, 0),
        # 3.6 a hour are a thousandth a second
        ({"max_cost_micros": 9000, "cost_micros": 1000, "price_micros_per_hour": 3_600_000}, 8),
        ({"max_cost_micros": 9000, "cost_micros": 1000, "price_micros_per_hour": 0}, None),
        (
            {
                "max_cost_micros": 9000,
                "price_micros_per_hour": 3_600_000,
                "max_gpu_s": 5.0,
                "charged_s": 1.0,
            },
            4,
        ),
    ],
)
def test_the_budget_is_what_the_nearest_limit_leaves(
    facts: dict[str, Any], left_s: float | None
) -> None:
    assert budget_s(use(**facts)) == left_s
