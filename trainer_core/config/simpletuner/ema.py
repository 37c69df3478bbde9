"""Options of the running mean of the trained weights."""

from typing import Final

from trainer_core.config.plan import EmaPlan, Place
from trainer_core.config.simpletuner.length import ema_problem
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.steps import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import Option, Table

EMA: Final = Table()

_USE: Final = EMA.flag("use_ema", False, "Keep a running mean of the trained weights, in fp32.")
_DECAY: Final = EMA.number("ema_decay", 0.995, "Decay of the mean.", above=0, at_most=0.9999999)
_WARMUP: Final = EMA.integer(
    "ema_warmup_steps", 0, "Up to this step the mean is a copy.", at_least=0, at_most=MAX_STEPS
)
_INTERVAL: Final = EMA.integer(
    "ema_update_interval",
    1,
    "Optimizer steps between updates of the mean.",
    at_least=1,
    at_most=MAX_STEPS,
)
_DEVICE: Final[Option[Place]] = EMA.choice(
    "ema_device",
    Place,
    "cpu",
    "Where the mean of all weights is stored. An adapter's mean is on the accelerator.",
)
_CPU_ONLY: Final = EMA.flag("ema_cpu_only", False, "The same as ema_device cpu.")
EMA.unlike(
    _USE,
    "The mean is kept in fp32; SimpleTuner keeps it in bf16, where small changes are lost. Adapter "
    "files have the mean, and checkpoints the last step's weights in live/; SimpleTuner's files "
    "have the last step's, and ema/ has the mean.",
)
EMA.no_effect("ema_foreach_disable", "There is one way to update the mean.")


def ema_of(config: Options, steps: int | None) -> EmaPlan | None:
    """None where no mean is kept. ``steps``: of the whole run; None: not known yet."""
    if not config[_USE]:
        config.idle("without use_ema", _DECAY, _WARMUP, _INTERVAL, _DEVICE, _CPU_ONLY)
        return None
    if not is_full_rank(config):
        why = "for an adapter: its mean is updated on the accelerator, as a part of the step"
        config.idle(why, _DEVICE, _CPU_ONLY)
    if config[_CPU_ONLY] and config[_DEVICE] == "accelerator":
        message = "ema_cpu_only and ema_device accelerator contradict each other."
        config.problem(_CPU_ONLY, "conflict", message)
    ema = EmaPlan(
        decay=config[_DECAY], warmup_steps=config[_WARMUP], update_interval=config[_INTERVAL]
    )
    never_averaged = None if steps is None else ema_problem(ema, steps)
    if never_averaged is not None:
        config.problem(_INTERVAL, "bad_value", never_averaged)
    return ema


def ema_device_of(config: Options) -> Place:
    """Where the mean is stored. Only that of all weights can be too large for the accelerator."""
    if not is_full_rank(config):
        return "accelerator"
    return "cpu" if config[_CPU_ONLY] else config[_DEVICE]


def keeps_mean(config: Options) -> bool:
    """Whether the run keeps a mean."""
    return config[_USE]
