"""How much a run computes, and what else its speed depends on: the facts for estimates of time.

The arithmetic is coarse: it only compares runs of one base model with each other. Imports no torch.
"""

from collections.abc import Mapping
from typing import Any, Final

from trainer_core.config.plan.document import Plan
from trainer_core.config.plan.frozen import Frozen
from trainer_core.config.plan.operation import Operation
from trainer_core.config.plan.shapes import LATENT_CELL_PX, hidream_linears

Trait = str | int | float | bool | None

_PATCH_PX: Final = 2 * LATENT_CELL_PX
"""Side of the square of pixels that one image token covers."""
_TEXT_TOKENS: Final = 3 * 128
"""Of T5, of Llama's last layer, and of the Llama layer of the block."""
_GUIDED_PASSES: Final = 2
"""Of a step of the sampler: with the prompt and with the negative one."""


class Work(Frozen):
    """What the time of a run depends on, besides its GPU class and base model."""

    traits: dict[str, Trait]
    """Settings that choose how the work is done. Runs with equal traits take time alike."""
    step_flops: float
    """Floating-point operations of one optimizer step on one rank; for an adapter on all ranks."""
    pass_flops: float
    """Of one picture forward; the fixed validation loss does it a fixed number of times."""
    sample_flops: float
    """Of the sample picture in the result."""
    checkpoint_interval: int
    """Steps between checkpoints, in the mean."""
    pictures_flops_a_step: float = 0.0
    """Of the pictures that are made while it trains, shared among the steps."""
    first_pictures_flops: float = 0.0
    """Of those before the first step."""
    evaluation_flops: float = 0.0
    """Of one measurement of the evaluation loss: one is made before the first step, one after the
    last."""
    evaluations_flops_a_step: float = 0.0
    """Of those in between, shared among the steps."""


def work_of(
    plan: Plan,
    transformer: Mapping[str, Any],
    *,
    image_px: float,
    epoch_steps: float | None = None,
    images: Mapping[str, int] | None = None,
) -> Work:
    """The work of a run.

    Args:
        plan: the run.
        transformer: configuration of the base model's transformer.
        image_px: mean area in pixels of a picture that is trained on.
        epoch_steps: optimizer steps of an epoch; None: not known.
        images: data backend → how many it has; None: as many as are asked for.
    """
    identity, operation = plan.identity, plan.operation
    pass_flops = _pass_flops(transformer, image_px)
    passes = 3 if identity.adapter is None else 2  # forward, and back to inputs and to weights
    accumulated = identity.accumulation_steps
    if identity.adapter is not None:  # a worker may have one GPU, which then takes all of them
        accumulated = identity.micro_batches_per_step
    samples = identity.micro_batch_size * accumulated
    sample_px = operation.sample_width_px * operation.sample_height_px
    pictures = _picture_flops(operation, transformer)
    evaluation = pass_flops * _evaluated_rows(plan, images)
    return Work(
        traits=_traits(plan),
        step_flops=samples * passes * pass_flops,
        pass_flops=pass_flops,
        sample_flops=_GUIDED_PASSES * operation.sample_steps * _pass_flops(transformer, sample_px),
        checkpoint_interval=_checkpoint_interval(operation, epoch_steps),
        pictures_flops_a_step=pictures * _pictures_a_step(plan, epoch_steps),
        first_pictures_flops=pictures * _first_pictures(plan),
        evaluation_flops=evaluation,
        evaluations_flops_a_step=evaluation * _evaluations_a_step(plan, epoch_steps),
    )


def _evaluated_rows(plan: Plan, images: Mapping[str, int] | None) -> int:
    """Images of one measurement of the evaluation loss, each counted at every noise level."""
    evaluation = plan.operation.evaluation
    if evaluation is None:
        return 0
    training = (each.id for each in plan.identity.backends if each.role == "train")
    measured = evaluation.backends or tuple(training)
    limit = evaluation.images
    counts = [limit if images is None else images.get(each, 0) for each in measured]
    if evaluation.by_backend:
        return evaluation.sigmas * sum(min(limit, count) for count in counts)
    return evaluation.sigmas * min(limit, sum(counts))


def _evaluations_a_step(plan: Plan, epoch_steps: float | None) -> float:
    """How often, in the mean, the evaluation loss is measured after a step."""
    evaluation = plan.operation.evaluation
    if evaluation is None:
        return 0.0
    return _times_a_step(evaluation.step_interval, evaluation.epoch_interval, epoch_steps)


def _picture_flops(operation: Operation, transformer: Mapping[str, Any]) -> float:
    """Of one picture of each prompt, size and seed."""
    pictures = operation.pictures
    if pictures is None:
        return 0.0
    passes = _GUIDED_PASSES if pictures.guidance > 1 else 1
    of_sizes = sum(
        _pass_flops(transformer, size.width_px * size.height_px) for size in pictures.sizes
    )
    return passes * pictures.steps * of_sizes * len(pictures.prompts) * len(pictures.seeds)


def _pictures_a_step(plan: Plan, epoch_steps: float | None) -> float:
    """How often, in the mean, the pictures of all prompts are made after a step."""
    pictures = plan.operation.pictures
    if pictures is None:
        return 0.0
    often = _times_a_step(pictures.step_interval, pictures.epoch_interval, epoch_steps)
    return often * len(pictures.after_steps(has_mean=plan.identity.ema is not None))


def _first_pictures(plan: Plan) -> int:
    """How often the pictures of all prompts are made before the first step."""
    pictures = plan.operation.pictures
    if pictures is None:
        return 0
    return len(pictures.before_training(has_start=plan.identity.start_adapter is not None))


def _checkpoint_interval(operation: Operation, epoch_steps: float | None) -> int:
    """Between checkpoints that fall on every n-th step, on the ends of epochs, or on both."""
    steps, epochs = operation.checkpoint_step_interval, operation.checkpoint_epoch_interval
    return max(1, round(1 / _times_a_step(steps, epochs, epoch_steps)))


def _times_a_step(steps: int | None, epochs: float | None, epoch_steps: float | None) -> float:
    """How often, in the mean, a step is due for something; at most 1.

    Args:
        steps: every so many steps are due; None: none for that.
        epochs: also the step that ends every so many epochs; None: none for that.
        epoch_steps: optimizer steps of an epoch; None: not known.
    """
    often = 0.0 if steps is None else 1 / steps
    if epochs is not None and epoch_steps is not None:
        often += 1 / (epochs * epoch_steps)
    return min(often, 1.0)


def expected_px(plan: Plan) -> float:
    """Mean area of a training picture before the pictures are known, by the resolutions."""
    training = [each for each in plan.identity.backends if each.role == "train"]
    return sum(each.resolution_px**2 for each in training) / max(1, len(training))


def _traits(plan: Plan) -> dict[str, Trait]:
    identity, operation = plan.identity, plan.operation
    precision, adapter = identity.precision, identity.adapter
    return {
        "adapter": identity.model_type,
        "adapted_modules": 0 if adapter is None else len(adapter.modules),
        "base_precision": precision.base,
        "matmul": precision.matmul,
        "compute": precision.compute,
        "recomputed": operation.gradient_checkpointing_interval
        if operation.gradient_checkpointing
        else 0,
        "optimizer": identity.optimizer.name,
        "ema": identity.ema is not None,
        "deterministic": operation.deterministic,
        "device": operation.device,
        "world_size": identity.world_size,
        "zero_stage": operation.zero_stage,
    }


def _pass_flops(transformer: Mapping[str, Any], image_px: float) -> float:
    """Of one picture forward: products with weights, and attention."""
    image_tokens = max(1.0, image_px / _PATCH_PX**2)
    tokens = image_tokens + _TEXT_TOKENS
    experts = int(transformer.get("num_routed_experts", 4))
    share = int(transformer.get("num_activated_experts", 2)) / experts if experts else 1.0
    products = 0.0
    for linear in hidream_linears(transformer):
        rows = _rows(linear.path, image_tokens)
        used = share if ".experts." in linear.path else 1.0
        products += used * rows * linear.in_features * linear.out_features
    dim = int(transformer["num_attention_heads"]) * int(transformer["attention_head_dim"])
    blocks = int(transformer["num_layers"]) + int(transformer["num_single_layers"])
    return 2 * products + 4 * blocks * tokens**2 * dim


def _rows(path: str, image_tokens: float) -> float:
    """Tokens that a linear is multiplied with."""
    if "adaLN" in path or path.startswith(("t_embedder", "p_embedder")):
        return 1
    if path.startswith("double_stream_blocks"):
        return _TEXT_TOKENS if "_t" in path.partition(".block.")[2] else image_tokens
    if path.startswith("single_stream_blocks"):
        return image_tokens + _TEXT_TOKENS
    return _TEXT_TOKENS / 3 if path.startswith("caption_projection") else image_tokens
