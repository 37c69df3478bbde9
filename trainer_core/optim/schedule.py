"""Learning rate as a function of the step: nothing to save, nothing to restore."""

from trainer_core.config.plan import SchedulePlan


def learning_rate_at(step: int, schedule: SchedulePlan, peak: float) -> float:
    """The rate of optimizer step ``step`` (counted from 1).

    Warm-up is linear and reaches ``peak`` at step ``warmup_steps``; its first step already moves.
    """
    if step < 1:
        raise ValueError(f"steps are counted from 1, not {step}")
    if schedule.name == "constant_with_warmup" and step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    return peak
