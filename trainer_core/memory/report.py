"""Memory that a plan needs on the device of one process.

Weights, adapter, gradients and optimizer state are counted exactly; activations are estimated.
"""

from dataclasses import dataclass
from typing import Literal

from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan
from trainer_core.memory.activations import MicroBatch, activation_bytes
from trainer_core.memory.optimizer_state import optimizer_state_bytes
from trainer_core.memory.trained import trained_tensors
from trainer_core.memory.weights import (
    FP32_BYTES,
    DeviceKind,
    base_weight_bytes,
    text_encoder_bytes,
    vae_bytes,
)
from trainer_core.memory.zero_shares import ZeroShares


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of each part; exact except where the name says estimate."""

    device: DeviceKind
    """Where the run is assumed to train: ``cuda`` unless the plan says cpu."""
    base_weights_bytes: int
    base_scales_bytes: int
    """Scales of int8 weights."""
    adapter_bytes: int
    gradients_bytes: int
    optimizer_state_bytes: int
    ema_bytes: int
    ema_device: Literal["cpu", "accelerator"]
    text_encoder_1_bytes: int | None
    """Text encoders are loaded one at a time while captions are cached. None: size not known."""
    text_encoder_2_bytes: int | None
    text_encoder_3_bytes: int | None
    text_encoder_4_bytes: int | None
    vae_bytes: int | None
    """Loaded while images are cached."""
    caching_bytes: int | None
    """The largest of the parts that are loaded while captions and images are cached."""
    held_bytes: int
    """Everything on the device during training except activations."""
    activations_estimate_bytes: int
    """For the largest bucket, with the plan's gradient checkpointing."""
    activations_without_checkpointing_estimate_bytes: int
    total_bytes: int
    """``held_bytes`` and the estimate of activations."""


def plan_memory(plan: Plan, parts: PartConfigs, *, largest_image_px: int) -> Memory:
    """The memory that a plan needs.

    Args:
        plan: the run.
        parts: configurations of the base model's parts.
        largest_image_px: area in pixels of an image of the largest bucket.
    """
    identity, operation = plan.identity, plan.operation
    device: DeviceKind = "cpu" if operation.device == "cpu" else "cuda"
    shares = ZeroShares(identity.world_size, operation.zero_stage)
    tensors = trained_tensors(identity, parts.transformer)
    trained_bytes = sum(tensor.elements for tensor in tensors) * FP32_BYTES

    weights, scales = base_weight_bytes(identity, parts.transformer, device)
    weights = shares.of_weights(weights)
    adapter = 0 if identity.adapter is None else trained_bytes
    gradients = shares.of_gradients(trained_bytes)
    state = shares.of_optimizer_state(optimizer_state_bytes(identity.optimizer.name, tensors))
    ema = 0 if identity.ema is None else trained_bytes
    is_ema_on_device = operation.ema_device == "accelerator" or device == "cpu"
    held = weights + scales + adapter + gradients + state + (ema if is_ema_on_device else 0)

    encoders, vae = text_encoder_bytes(identity, parts, device), vae_bytes(parts)
    interval = operation.gradient_checkpointing_interval
    step = MicroBatch(identity, parts.transformer, device, largest_image_px)
    without_checkpointing = activation_bytes(step, None)
    activations = activation_bytes(step, interval if operation.gradient_checkpointing else None)
    return Memory(
        device=device,
        base_weights_bytes=weights,
        base_scales_bytes=scales,
        adapter_bytes=adapter,
        gradients_bytes=gradients,
        optimizer_state_bytes=state,
        ema_bytes=ema,
        ema_device=operation.ema_device,
        text_encoder_1_bytes=encoders[0],
        text_encoder_2_bytes=encoders[1],
        text_encoder_3_bytes=encoders[2],
        text_encoder_4_bytes=encoders[3],
        vae_bytes=vae,
        caching_bytes=max((size for size in (*encoders, vae) if size is not None), default=None),
        held_bytes=held,
        activations_estimate_bytes=activations,
        activations_without_checkpointing_estimate_bytes=without_checkpointing,
        total_bytes=held + activations,
    )
