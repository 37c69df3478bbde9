"""Options of how data backends are mixed, when each is trained on, and how much of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trainer_core.config.plan import Backend, DataSampling
from trainer_core.config.plan.windows import idle_message, window_of
from trainer_core.config.simpletuner.masks import ReadBackend
from trainer_core.config.simpletuner.reading import Findings, Options
from trainer_core.config.simpletuner.steps import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import Option, Table

SAMPLING: Final = Table()
BACKEND_MIXING: Final = Table()

_LEAST_PROBABILITY: Final = 1e-6
_DEFAULT_SAMPLING: Final[DataSampling] = "auto-weighting"
_ONE_BACKEND: Final = "with one data backend to train on"

_SAMPLING: Final[Option[DataSampling]] = SAMPLING.choice(
    "data_backend_sampling",
    DataSampling,
    _DEFAULT_SAMPLING,
    "How often a batch is of which data backend: by their probability (uniform), or by that times "
    "their batches an epoch (auto-weighting).",
)
_PROBABILITY: Final = BACKEND_MIXING.number(
    "probability",
    1.0,
    "Weight of the backend in data_backend_sampling; an epoch uses each image 1 + repeats times "
    "whatever it is.",
    at_least=0,
    at_most=1e6,
)
_START_STEP: Final = BACKEND_MIXING.integer(
    "start_step", 0, "The first step that it is trained on; 0 and 1: at once.", at_most=MAX_STEPS
)
_START_EPOCH: Final = BACKEND_MIXING.integer(
    "start_epoch",
    1,
    "The first epoch that it is trained on; with start_step both hold.",
    at_most=MAX_STEPS,
)
_END_STEP: Final[Option[int | None]] = BACKEND_MIXING.integer(
    "end_step", None, "The last step that it is trained on; 0: none.", at_most=MAX_STEPS
)
_END_EPOCH: Final[Option[int | None]] = BACKEND_MIXING.integer(
    "end_epoch", None, "The last epoch that it is trained on; 0: none.", at_most=MAX_STEPS
)
_DISABLE_AFTER: Final[Option[int | None]] = BACKEND_MIXING.integer(
    "disable_after_epoch_step",
    None,
    "With auto-weighting the last step that it is trained on, as end_step.",
    at_most=MAX_STEPS,
)
BACKEND_MIXING.unlike(
    _DISABLE_AFTER, "The backend ends after this step; its weight does not fall before."
)
_MAX_SAMPLES: Final[Option[int | None]] = BACKEND_MIXING.integer(
    "max_num_samples",
    None,
    "Only so many of its usable images, the same ones in each run; 0: all.",
    at_least=0,
    at_most=2**31,
)

_NOT_OF_HELD_OUT: Final = (
    _PROBABILITY,
    _START_STEP,
    _START_EPOCH,
    _END_STEP,
    _END_EPOCH,
    _DISABLE_AFTER,
)
NOT_OF_MASKS: Final = (*_NOT_OF_HELD_OUT, _MAX_SAMPLES)
"""These have no effect on masks, which belong to the images of their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """The fields of ``Backend`` that say how it is mixed with others."""

    probability: float = 1.0
    start_step: int = 1
    start_epoch: int = 1
    end_step: int | None = None
    end_epoch: int | None = None
    max_num_samples: int | None = None


def mixing_of(options: Options, config: Options, *, is_trained_on: bool) -> Mixing:
    """How a backend of images is mixed with others."""
    most = options[_MAX_SAMPLES] or None
    if not is_trained_on:
        options.idle("on held-out images", *_NOT_OF_HELD_OUT)
        return Mixing(max_num_samples=most)
    if options[_PROBABILITY] < _LEAST_PROBABILITY:
        message = (
            "Nothing would be drawn from this backend: set disabled to true to leave it out, or "
            f"give a probability of at least {_LEAST_PROBABILITY:g}."
        )
        options.problem(_PROBABILITY, "bad_value", message)
    start_step, start_epoch = max(1, options[_START_STEP]), max(1, options[_START_EPOCH])
    end_step, end_epoch = _end_step_of(options, config), _last(options[_END_EPOCH])
    _check_order(options, _END_STEP, "step", start_step, end_step)
    _check_order(options, _END_EPOCH, "epoch", start_epoch, end_epoch)
    return Mixing(
        probability=options[_PROBABILITY],
        start_step=start_step,
        start_epoch=start_epoch,
        end_step=end_step,
        end_epoch=end_epoch,
        max_num_samples=most,
    )


def _end_step_of(options: Options, config: Options) -> int | None:
    end, disabled_after = _last(options[_END_STEP]), _last(options[_DISABLE_AFTER])
    if disabled_after is None:
        return end
    if config[_SAMPLING] == "uniform":
        options.idle("with data_backend_sampling uniform", _DISABLE_AFTER)
        return end
    message = "ends the backend after this step, as end_step does; its weight does not fall before."
    options.differs(_DISABLE_AFTER, message)
    return disabled_after if end is None else min(end, disabled_after)


def _last(number: int | None) -> int | None:
    """The last step or epoch; None where there is none, as SimpleTuner reads 0 and below."""
    return number if number is not None and number > 0 else None


def _check_order(
    options: Options, option: Option[int | None], what: str, start: int, end: int | None
) -> None:
    if end is not None and end < start:
        message = f"The backend would end after {what} {end}, before it starts at {what} {start}."
        options.problem(option, "conflict", message)


def without_idle_weights(
    backends: Sequence[Backend], read: Sequence[ReadBackend]
) -> tuple[Backend, ...]:
    """The backends, with the weight that acts: alone, a backend has no weight.

    ``read``: the options of each, in the same order.
    """
    if sum(backend.role == "train" for backend in backends) != 1:
        return tuple(backends)
    for part in read:
        if part.backend.role == "train":
            part.options.idle(_ONE_BACKEND, _PROBABILITY)
    return tuple(backend.model_copy(update={"probability": 1.0}) for backend in backends)


def data_sampling_of(config: Options, backends: Sequence[Backend]) -> DataSampling:
    """How the backends are weighed."""
    if sum(backend.role == "train" for backend in backends) == 1:
        config.idle(_ONE_BACKEND, _SAMPLING)
        return _DEFAULT_SAMPLING
    return config[_SAMPLING]


def check_some_backend(
    backends: Sequence[Backend], steps: int | None, pointer: str, findings: Findings
) -> None:
    """Report a step without a backend, as far as this is known before the data is.

    Args:
        backends: of the plan.
        steps: of the run; None: they follow from the data.
        pointer: to the list of backends.
        findings: gets the problem.
    """
    trained = [backend for backend in backends if backend.role == "train"]
    if not trained or any(each.pointer.startswith(pointer) for each in findings.problems):
        return  # of a backend that cannot be read nothing is known
    windows = [window_of(backend) for backend in trained]
    idle = None
    if not any(window.holds(1, 1) for window in windows):
        idle = 1
    elif steps is not None:
        ends = sorted(w.end_step + 1 for w in windows if w.end_step is not None)
        within = (step for step in ends if step <= steps)
        idle = next((step for step in within if not any(w.may_hold(step) for w in windows)), None)
    if idle is not None:
        findings.problem(pointer, "conflict", idle_message(idle, trained))
