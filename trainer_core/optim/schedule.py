"""Learning rate as a function of the step: nothing to save, nothing to restore."""

import math

from trainer_core.config.plan import SchedulePlan


def learning_rate_at(step: int, schedule: SchedulePlan, peak: float, last_step: int) -> float:
    """The rate of optimizer step ``step``, counted from 1, in a run of ``last_step`` steps.

    With W ``warmup_steps`` and F = max(W, 1) the first step at the peak:

    - ``constant``: the peak, always.
    - all others, before step W: peak · step / W, so the first step already moves.
    - ``constant_with_warmup``: then the peak.
    - ``linear``: then peak · (1 - p), with p = (step - F) / (last_step + 1 - F). It would reach 0
      one step after the last, so the last step still moves.
    - ``polynomial``: then end + (peak - end) · (1 - p) ** power.
    - ``cosine``: then end + (peak - end) · (1 + cos(π p)) / 2; with ``period_steps`` T,
      p = ((step - F) mod T) / T: it falls over T steps and jumps back to the peak.
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
            return peak * _left(step, since_peak, last_step)
        case "polynomial":
            left: float = _left(step, since_peak, last_step) ** schedule.power
            return schedule.end + (peak - schedule.end) * left
        case "cosine":
            period = schedule.period_steps
            done = (
                1 - _left(step, since_peak, last_step)
                if period is None
                else since_peak % period / period
            )
            return schedule.end + (peak - schedule.end) * (1 + math.cos(math.pi * done)) / 2


def _left(step: int, since_peak: int, last_step: int) -> float:
    """1 - p: 1 at the peak, 0 one step after the last."""
    to_go = last_step + 1 - step
    return to_go / (to_go + since_peak)
