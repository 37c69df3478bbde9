"""Limits of one run: what it may cost, how long it may use a GPU, and until when it may work. Pure.

At a limit the run stores a checkpoint and is paused. It can be resumed once the limit is raised.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from trainer_core.errors import Category
from trainer_core.process.failure import Failure

_HOUR_S: Final = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitedUse:
    """A run's limits, each None where there is none, and what it has used."""

    max_cost_micros: int | None
    max_gpu_s: float | None
    deadline: datetime | None
    is_past_deadline: bool
    cost_micros: int
    charged_s: float
    price_micros_per_hour: int
    """Of the attempt that holds the run, or of the next one."""


def reached(use: LimitedUse) -> Failure | None:
    """The limit that the run has reached, as the reason for its pause; None where it may go on."""
    if use.max_cost_micros is not None and use.cost_micros >= use.max_cost_micros:
        return _paused(
            "cost_limit_reached",
            f"The run has used up its max_cost of {use.max_cost_micros / 1e6:,.2f}. Raise it and "
            "resume the run, or use its newest checkpoint.",
        )
    if use.max_gpu_s is not None and use.charged_s >= use.max_gpu_s:
        return _paused(
            "gpu_hours_limit_reached",
            f"The run has used up its max_gpu_hours of {use.max_gpu_s / _HOUR_S:,.4g}. Raise it "
            "and resume the run, or use its newest checkpoint.",
        )
    if use.deadline is not None and use.is_past_deadline:
        return _paused(
            "deadline_reached",
            "The run's deadline has passed. Set a later one and resume the run, or use its newest "
            "checkpoint.",
        )
    return None


def budget_s(use: LimitedUse) -> float | None:
    """Seconds that may still be charged, 0 or more; None where nothing limits them."""
    left: list[float] = []
    if use.max_gpu_s is not None:
        left.append(use.max_gpu_s - use.charged_s)
    if use.max_cost_micros is not None and use.price_micros_per_hour:
        left_micros = use.max_cost_micros - use.cost_micros
        left.append(left_micros * _HOUR_S / use.price_micros_per_hour)
    return max(0.0, min(left)) if left else None


def _paused(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.QUOTA, message=message, retryable=False)
