"""Options of the number of steps, the batch size, the ranks and the device."""

import secrets
from dataclasses import dataclass
from typing import Final

from trainer_core.config.plan import Device
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

STEPS: Final = Table()
MAX_STEPS: Final = 100_000_000
_ACCUMULATION_MAX: Final = 100_000

_SEED: Final = STEPS.integer(
    "seed", 42, "0 and -1 draw a seed, which is stored in the plan.", at_least=-1
)
BATCH_SIZE: Final = STEPS.integer(
    "train_batch_size", 4, "Samples in a micro-batch.", at_least=1, at_most=1024
)
ACCUMULATION: Final = STEPS.integer(
    "gradient_accumulation_steps", 1, "Micro-batches of one rank in an optimizer step.", at_least=0
)
_MAX_STEPS: Final[Option[int | None]] = STEPS.integer(
    "max_train_steps", None, "Optimizer steps.", at_least=0, at_most=MAX_STEPS
)
_EPOCHS: Final[Option[int | None]] = STEPS.integer(
    "num_train_epochs",
    None,
    "The length in epochs, in place of max_train_steps. An epoch uses every image 1 + repeats "
    "times. Where neither is given, the run is one epoch, as in SimpleTuner.",
    at_least=0,
    at_most=MAX_STEPS,
)
WORLD_SIZE: Final = STEPS.integer(
    "world_size",
    1,
    "Reverie's own: number of GPUs that a step is planned for. An adapter has the same samples a "
    "step on fewer: each GPU then accumulates more of its batches.",
    at_least=1,
    at_most=1024,
)
STEPS.unlike(
    STEPS.alias("num_processes", WORLD_SIZE),
    "A step of an adapter has the samples of so many GPUs wherever it runs: fewer GPUs accumulate.",
)
_DEVICE: Final[Option[Device]] = STEPS.choice(
    "device", Device, "auto", "Reverie's own: auto takes cuda where there is one, else cpu."
)
STEPS.handled("seed_for_each_device", "Draws depend on step and sample, not device.")
STEPS.handled("set_grads_to_none", "Gradients are always freed.")


def is_seed_drawn(config: Options) -> bool:
    """Whether the options request a random seed."""
    return config[_SEED] <= 0


def written_seed_of(config: Options) -> int:
    """The seed that the files give; 0 where they ask for a random one."""
    return max(config[_SEED], 0)


def seed_of(config: Options) -> int:
    """The seed. 0 and -1 request a random one."""
    seed = config[_SEED]
    if not is_seed_drawn(config):
        return seed
    drawn = secrets.randbelow(2**31 - 1) + 1
    config.handled(_SEED, f"{seed} requests a random seed: {drawn} was drawn and is stored.")
    return drawn


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: one of the two is None, or both where its options have a problem."""

    steps: int | None
    epochs: int | None


def length_of(config: Options) -> Length:
    """The length of the run, in steps or in epochs."""
    steps, epochs = config[_MAX_STEPS] or 0, config[_EPOCHS]
    if config.is_wrong(_MAX_STEPS) or config.is_wrong(_EPOCHS):
        return Length(steps or None, None)
    if steps > 0:
        if epochs:
            message = "Give max_train_steps or num_train_epochs, not both; set one of them to 0."
            config.problem(_EPOCHS, "conflict", message)
        return Length(steps, None)
    if epochs is None:
        config.handled(_EPOCHS, "is 1 where no length is given, as in SimpleTuner.")
        return Length(None, 1)
    if epochs == 0:
        message = "The run has no length: give max_train_steps or num_train_epochs above 0."
        config.problem(_EPOCHS, "missing", message)
        return Length(None, None)
    return Length(None, epochs)


def accumulation_of(config: Options) -> int:
    """Micro-batches of one of the planned ranks in an optimizer step."""
    steps = config[ACCUMULATION]
    if steps == 0:
        config.handled(ACCUMULATION, "0 is taken as 1.")
    if steps > _ACCUMULATION_MAX:
        message = f"gradient_accumulation_steps is at most {_ACCUMULATION_MAX}."
        config.problem(ACCUMULATION, "bad_value", message)
    accumulated, size = max(1, steps), config[WORLD_SIZE]
    if size > 1 and not is_full_rank(config):
        samples = size * accumulated * config[BATCH_SIZE]
        config.differs(
            WORLD_SIZE,
            f"a step has {samples} samples, shared among {size} GPUs; where there are fewer, each "
            "accumulates more of its batches.",
        )
    return accumulated


def world_size_of(config: Options) -> int:
    """Number of ranks that a step is planned for."""
    return config[WORLD_SIZE]


def device_of(config: Options) -> Device:
    """The device to train on."""
    return config[_DEVICE]
