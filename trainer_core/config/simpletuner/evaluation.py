"""Options of the evaluation loss, which is measured while a run trains."""

from collections.abc import Sequence
from typing import Any, Final

from trainer_core.config.plan import Backend, Evaluation
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.steps import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import Option, Table

EVALUATION: Final = Table()

_STEPS: Final[Option[int | None]] = EVALUATION.integer(
    "eval_steps_interval",
    None,
    "Steps between measurements of the evaluation loss, which is also measured before the first "
    "step and after the last one; 0: not for that.",
    at_least=0,
    at_most=MAX_STEPS,
)
_EPOCHS: Final[Option[float | None]] = EVALUATION.number(
    "eval_epoch_interval",
    None,
    "Also at each step that ends so many epochs; 0.5: twice an epoch. 0: not for that.",
    at_least=0,
    at_most=MAX_STEPS,
)
_IMAGES: Final = EVALUATION.integer(
    "num_eval_images",
    4,
    "At most so many images are measured: of each eval dataset, or of all of them with "
    "eval_dataset_pooling. A confidence interval needs at least two.",
    at_least=1,
    at_most=10_000,
)
_SIGMAS: Final = EVALUATION.integer(
    "eval_timesteps", 28, "Noise levels that each image is measured at.", at_least=1, at_most=200
)
_BACKEND: Final = EVALUATION.text(
    "eval_dataset_id", None, "The only eval dataset that is measured; without it all of them."
)
_POOLING: Final = EVALUATION.flag(
    "eval_dataset_pooling", False, "Whether eval datasets have no means of their own."
)
_DISABLED: Final = EVALUATION.flag(
    "eval_loss_disable", False, "Measure no evaluation loss, whatever the intervals."
)
EVALUATION.unlike(
    _STEPS,
    "It is also measured at the start and at the end, and without an eval dataset on images that "
    "are trained on.",
)
EVALUATION.unlike(_IMAGES, "Images are counted; SimpleTuner counts batches.")
EVALUATION.unlike(
    _SIGMAS,
    "They lie evenly between 0 and 1, so that runs of different shifts are comparable; "
    "SimpleTuner takes those of its shifted sampler.",
)

_OF_INTERVALS: Final[tuple[Option[Any], ...]] = (_IMAGES, _SIGMAS, _BACKEND, _POOLING)
_DATA_POINTER: Final = "/data_backends"


def evaluation_of(config: Options, backends: Sequence[Backend]) -> Evaluation | None:
    """None where the evaluation loss is not measured."""
    steps, epochs = config[_STEPS] or None, config[_EPOCHS] or None
    if config[_DISABLED]:
        config.idle("with eval_loss_disable", _STEPS, _EPOCHS, *_OF_INTERVALS)
        return None
    if steps is None and epochs is None:
        config.idle("without eval_steps_interval or eval_epoch_interval", *_OF_INTERVALS)
        return None
    measured = _measured(config, backends)
    if len(measured) < 2 and config[_POOLING]:
        config.idle("with fewer than two eval datasets", _POOLING)
    if not measured and config[_BACKEND] is None:
        config.differs(
            _STEPS if steps is not None else _EPOCHS,
            "no dataset has dataset_type eval: images that are trained on are measured.",
        )
    return Evaluation(
        step_interval=steps,
        epoch_interval=epochs,
        images=config[_IMAGES],
        sigmas=config[_SIGMAS],
        backends=measured,
        by_backend=len(measured) > 1 and not config[_POOLING],
    )


def _measured(config: Options, backends: Sequence[Backend]) -> tuple[str, ...]:
    """Ids of the eval datasets that are measured."""
    held_out = tuple(backend.id for backend in backends if backend.role == "eval")
    wanted = (config[_BACKEND] or "").strip()
    if not wanted:
        return held_out
    if wanted in held_out:
        return (wanted,)
    problems = config.findings.problems
    if not any(problem.pointer.startswith(_DATA_POINTER) for problem in problems):
        known = f"it may be {' or '.join(held_out)}" if held_out else "there is none"
        config.problem(
            _BACKEND,
            "conflict",
            f"{wanted[:128]} is no data backend with dataset_type eval; {known}.",
        )
    return ()
