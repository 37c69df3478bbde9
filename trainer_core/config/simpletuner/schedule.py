"""Options of the learning rate over the steps of a run."""

from typing import Final

from trainer_core.config.plan import ScheduleName, SchedulePlan
from trainer_core.config.simpletuner.length import warmup_message
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.steps import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import Option, Table, same

SCHEDULE: Final = Table()

_NAME: Final[Option[ScheduleName]] = SCHEDULE.choice(
    "lr_scheduler",
    {**same(ScheduleName), "cosine_with_warmup": "cosine"},
    "constant_with_warmup",
    "Learning rate over steps; cosine_with_warmup is cosine.",
    known=("sine", "cosine_with_restarts"),
    nearest="cosine",
)
_WARMUP: Final = SCHEDULE.integer(
    "lr_warmup_steps",
    0,
    "Optimizer steps of linear warm-up, whatever the schedule and the number of ranks.",
    at_least=0,
    at_most=MAX_STEPS,
)
_PERIOD: Final[Option[int | None]] = SCHEDULE.integer(
    "lr_period_steps",
    None,
    "Reverie's own: steps from peak to peak of cosine; where it is not given, the rate falls once "
    "over the run.",
    at_least=1,
    at_most=MAX_STEPS,
)
_END: Final = SCHEDULE.number(
    "lr_end", 4e-7, "Rate at the end of cosine and polynomial.", at_least=0
)
_POWER: Final = SCHEDULE.number("lr_power", 0.8, "Power of polynomial.", above=0, at_most=100)
SCHEDULE.unlike(
    _WARMUP,
    "Warm-up with every schedule, in optimizer steps. SimpleTuner takes it as the period of "
    "cosine, and multiplies it by the number of processes.",
)
SCHEDULE.no_effect("lr_num_cycles", "It belongs to cosine_with_restarts.")
SCHEDULE.not_built("lr_scale lr_scale_sqrt", "Scale learning_rate yourself.", False, type_="bool")


def schedule_of(config: Options, peak: float, steps: int | None) -> SchedulePlan:
    """The schedule.

    Args:
        config: the options.
        peak: the learning rate after the warm-up.
        steps: of the whole run; None: not known yet.
    """
    name, warmup = config[_NAME], config[_WARMUP]
    if name == "constant" and warmup > 0:
        config.handled(_NAME, "constant with lr_warmup_steps is constant_with_warmup.")
        name = "constant_with_warmup"
    if name == "cosine" and warmup > 0:
        config.differs(
            _WARMUP,
            "is warm-up with cosine too; SimpleTuner takes it as cosine's period, which is "
            "lr_period_steps here.",
        )
    if steps is not None and (unusual := warmup_message(name, warmup, steps)) is not None:
        config.differs(_WARMUP, unusual)
    if name != "cosine":
        config.idle(f"with {name}", _PERIOD)
    if name != "polynomial":
        config.idle(f"with {name}", _POWER)
    end = config[_END]
    if name not in ("cosine", "polynomial"):
        config.idle(f"with {name}", _END)
        end = 0.0
    elif end >= peak:
        config.problem(_END, "conflict", f"lr_end {end:g} has to be below learning_rate {peak:g}.")
    return SchedulePlan(
        name=name,
        warmup_steps=warmup,
        end=end,
        power=config[_POWER] if name == "polynomial" else 1.0,
        period_steps=config[_PERIOD] if name == "cosine" else None,
    )
