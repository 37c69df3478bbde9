"""Learning rate as a function of the step, without state."""

import math
from typing import assert_never

from trainer_core.config.plan import SchedulePlan


def learning_rate_at(step: int, schedule: SchedulePlan, peak: float, last_step: int) -> float:
    """The rate of optimizer step ``step``, counted from 1, in a run of ``last_step`` steps.

    With W ``warmup_steps`` and F = max(W, 1) the first step at the peak:

    - ``constant``: always the peak.
    - All others, before step W: peak · step / W, so the first step's rate is not 0.
    - ``constant_with_warmup``: then the peak.
    - ``linear``: then peak · (1 - p), with p = (step - F) / (last_step + 1 - F). The rate of the
      last step is above 0; a step after it would have 0.
    - ``polynomial``: then end + (peak - end) · (1 - p) ** power.
    - ``cosine``: then end + (peak - end) · (1 + cos(π p)) / 2. With ``period_steps`` T,
      p = ((step - F) mod T) / T: it falls over T steps and jumps back to the peak.

    Raises ValueError for a step before 1.
    """
    if step < 1:
        raise ValueError(f"steps are counted from 1, not {step}")
    if schedule.name == "constant":
        return peak
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    since_peak = step - max(schedule.warmup_steps, 1)
    match schedule.name:
        case "constant_with_warmup":
            return peak
        case "linear":
            return peak * _remaining(step, since_peak, last_step)
        case "polynomial":
            share: float = _remaining(step, since_peak, last_step) ** schedule.power
            return schedule.end + (peak - schedule.end) * share
        case "cosine":
            period = schedule.period_steps
            done = (
                1 - _remaining(step, since_peak, last_step)
                if period is None
                else since_peak % period / period
            )
            return schedule.end + (peak - schedule.end) * (1 + math.cos(math.pi * done)) / 2
        case _:
            assert_never(schedule.name)


def _remaining(step: int, since_peak: int, last_step: int) -> float:
    """1 - p: 1 at the peak, 0 one step after the last."""
    steps = last_step + 1 - step
    return steps / (steps + since_peak)
