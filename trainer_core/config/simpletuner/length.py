"""What depends on the number of steps of a run, which one in epochs has once its data is known."""

from collections.abc import Iterator

from trainer_core.config.plan import EmaPlan, Identity, ScheduleName
from trainer_core.config.plan.problems import Problem
from trainer_core.config.simpletuner.steps import MAX_STEPS


def warmup_message(schedule: ScheduleName, warmup: int, steps: int) -> str | None:
    """What is unusual about so many ``lr_warmup_steps`` in a run of so many steps."""
    if warmup > steps:
        return f"{warmup} is longer than the run of {steps} steps."
    if warmup == steps and schedule in ("linear", "cosine", "polynomial"):
        return f"{warmup} is the whole run: {schedule} never falls."
    return None


def warnings_of_epochs(identity: Identity, steps: int) -> Iterator[str]:
    """What is unusual about a run in epochs that takes so many steps."""
    if identity.num_train_epochs is not None:
        schedule = identity.schedule
        unusual = warmup_message(schedule.name, schedule.warmup_steps, steps)
        if unusual is not None:
            yield f"lr_warmup_steps: {unusual}"


def ema_problem(ema: EmaPlan | None, steps: int) -> str | None:
    """Why no running mean would be taken in a run of so many steps; None where one would."""
    if ema is None or ema.update_interval <= steps:
        return None
    return f"The run has {steps} steps: no mean would ever be taken. Use at most that many."


def problems_of_epochs(identity: Identity, steps: int) -> Iterator[Problem]:
    """Why a run in epochs cannot take the steps that were counted; none for a run in steps."""
    if identity.num_train_epochs is None:
        return
    if steps > MAX_STEPS:
        message = (
            f"{identity.num_train_epochs:,} epochs are {steps:,} steps; a run has at most "
            f"{MAX_STEPS:,}."
        )
        yield Problem(pointer="/config/num_train_epochs", code="bad_value", message=message)
    never_averaged = ema_problem(identity.ema, steps)
    if never_averaged is not None:
        at = "/config/ema_update_interval"
        yield Problem(pointer=at, code="bad_value", message=never_averaged)
