"""Memory that a plan needs on the device of one process.

Weights, adapter, gradients and optimizer state are counted exactly; activations are estimated.
"""

from dataclasses import dataclass
from typing import Literal

from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan
from trainer_core.memory.activations import MicroBatch, activation_bytes
from trainer_core.memory.card_plan import card_needs
from trainer_core.memory.cards import assumed_matmul
from trainer_core.memory.fused_model import FusedModel, is_fused
from trainer_core.memory.fused_weights import base_bytes, fused_weights
from trainer_core.memory.optimizer_state import optimizer_state_bytes
from trainer_core.memory.peak import activations_at_peak
from trainer_core.memory.released_gradients import largest_gradient_bytes
from trainer_core.memory.trained import trained_tensors
from trainer_core.memory.weights import (
    FP32_BYTES,
    DeviceKind,
    base_number_bytes,
    base_weight_bytes,
    text_encoder_bytes,
    trained_number,
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
    """Of all weights; where each is freed at once, the most that are in memory together."""
    optimizer_state_bytes: int
    master_weights_bytes: int
    """The fp32 weights that DeepSpeed updates, beside those of the model."""
    deepspeed_buffers_bytes: int
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
    host_bytes: int
    """Of the host's memory: what DeepSpeed offloads, with its buffers, and a mean on the CPU."""
    held_bytes: int
    """Everything on the device during training except activations."""
    update_bytes: int
    """What DeepSpeed adds while it updates the weights, when there are no activations."""
    activations_estimate_bytes: int
    """For the largest bucket, with all blocks recomputed that the plan lets be recomputed."""
    activations_without_checkpointing_estimate_bytes: int
    total_bytes: int
    """``held_bytes``, and the larger of activations (estimate) and ``update_bytes``; at least what
    is held while the model is loaded."""


def plan_memory(plan: Plan, parts: PartConfigs, *, largest_image_px: int) -> Memory:
    """The memory that a plan needs.

    Args:
        plan: the run. Where it leaves the ZeRO stage open, this is the memory of stage 2.
        parts: configurations of the base model's parts.
        largest_image_px: area in pixels of an image of the largest bucket.
    """
    identity, operation = plan.identity, plan.operation
    device: DeviceKind = "cpu" if operation.device == "cpu" else "cuda"
    stage = 2 if operation.zero_stage == "auto" else operation.zero_stage
    shares = ZeroShares(identity.world_size, stage)
    tensors = trained_tensors(identity, parts.transformer)
    trained = sum(tensor.elements for tensor in tensors)
    trained_bytes = trained * trained_number(identity)

    fused, number_bytes = _fused_model(plan, parts, device), base_number_bytes(plan, device)
    weights, scales = (
        base_weight_bytes(identity, parts.transformer, number_bytes)
        if fused is None
        else base_bytes(fused)
    )
    loaded = 0 if stage is None else weights  # each rank loads all before they are shared
    weights = shares.of_weights(weights)
    adapter = 0 if identity.adapter is None else trained_bytes
    gradients = shares.of_gradients(trained_bytes if stage is None else trained * number_bytes)
    if operation.release_gradients and identity.adapter is None:
        gradients = largest_gradient_bytes(identity, parts.transformer)
    state = shares.of_optimizer_state(optimizer_state_bytes(identity, tensors))
    offloads = operation.zero_offload == "cpu"
    masters = shares.of_masters(trained, number_bytes, offloads=offloads)
    buffers = shares.of_buffers(trained, number_bytes)
    ema = 0 if identity.ema is None else shares.of_optimizer_state(trained * FP32_BYTES)
    ema_device = operation.ema_device if identity.adapter is None else "accelerator"
    is_ema_on_host = offloads or (ema_device == "cpu" and device != "cpu")
    on_host = ema if is_ema_on_host else 0
    held = weights + scales + adapter + gradients + buffers + (0 if is_ema_on_host else ema)
    if offloads:
        on_host += masters + state + shares.of_host(trained, number_bytes)
        update = 0
    else:
        held += masters + state
        update = shares.of_update(trained, number_bytes)

    encoders, vae = text_encoder_bytes(identity, parts, device), vae_bytes(parts)
    activations, without_checkpointing = _activations(plan, parts, device, largest_image_px, fused)
    return Memory(
        device=device,
        base_weights_bytes=weights,
        base_scales_bytes=scales,
        adapter_bytes=adapter,
        gradients_bytes=gradients,
        optimizer_state_bytes=state,
        master_weights_bytes=masters,
        deepspeed_buffers_bytes=buffers,
        ema_bytes=ema,
        ema_device=ema_device,
        text_encoder_1_bytes=encoders[0],
        text_encoder_2_bytes=encoders[1],
        text_encoder_3_bytes=encoders[2],
        text_encoder_4_bytes=encoders[3],
        vae_bytes=vae,
        caching_bytes=max((size for size in (*encoders, vae) if size is not None), default=None),
        host_bytes=on_host,
        held_bytes=held,
        update_bytes=update,
        activations_estimate_bytes=activations,
        activations_without_checkpointing_estimate_bytes=without_checkpointing,
        total_bytes=max(held + max(activations, update), loaded),
    )


def _fused_model(plan: Plan, parts: PartConfigs, device: DeviceKind) -> FusedModel | None:
    """What the fused blocks compute; None: the plan's blocks are not fused."""
    matmul = assumed_matmul(plan)
    if device == "cpu" or not is_fused(plan, matmul):
        return None
    return FusedModel.of(plan, parts.transformer, matmul)


def _activations(
    plan: Plan,
    parts: PartConfigs,
    device: DeviceKind,
    image_px: int,
    fused: FusedModel | None,
) -> tuple[int, int]:
    """Estimated bytes (as the plan checkpoints, without checkpointing)."""
    identity, operation = plan.identity, plan.operation
    if fused is not None:
        needs = card_needs(plan, fused, fused_weights(fused), image_px=image_px)
        return (
            activations_at_peak(needs.blocks, needs.recomputable, needs.outside),
            activations_at_peak(needs.blocks, frozenset(), needs.outside),
        )
    step = MicroBatch(identity, parts.transformer, device, image_px)
    interval = operation.gradient_checkpointing_interval
    return (
        activation_bytes(step, interval if operation.gradient_checkpointing else None),
        activation_bytes(step, None),
    )
