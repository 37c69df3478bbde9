"""Estimate the activations that autograd keeps, with and without gradient checkpointing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.config.plan import Identity
from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.memory.weights import BF16_BYTES, FP32_BYTES, DeviceKind

_PATCH_PX: Final = 2 * LATENT_CELL_PX
"""Side of the square of pixels that one image token covers."""
_TEXT_TOKENS: Final = 3 * 128
"""128 each of T5, of Llama's last layer, and of the Llama layer of the block."""
_WIDTHS_BESIDE_FEED_FORWARD: Final = 16
"""Tensors of the model's width that autograd keeps per token and block: inputs of norms,
modulation, projections and attention. With those of the feed-forward this gives 39 GiB for 1024²
without checkpointing; 36 GiB were measured (SimpleTuner 4.10.1, H200: 70 GiB, 34 of weights)."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass."""

    identity: Identity
    """Batch size and precision are read."""
    transformer: Mapping[str, Any]
    """The transformer's configuration."""
    device: DeviceKind
    image_px: int
    """Area of each image."""


def activation_bytes(batch: MicroBatch, checkpointing_interval: int | None) -> int:
    """Bytes of activations at the end of the forward pass.

    ``checkpointing_interval``: n means that every n-th block is recomputed in the backward pass;
    None means that gradient checkpointing is off.
    """
    identity, transformer = batch.identity, batch.transformer
    dim = int(transformer["num_attention_heads"]) * int(transformer["attention_head_dim"])
    image_tokens = max(1, batch.image_px // _PATCH_PX**2)
    tokens = image_tokens + _TEXT_TOKENS
    a_token = identity.micro_batch_size * _number_bytes(identity, batch.device)
    experts = _experts_width(transformer, dim)
    double = _kept_widths(image_tokens, dim, experts) + _kept_widths(
        _TEXT_TOKENS, dim, _feed_forward_width(4 * dim)
    )
    single = _kept_widths(tokens, dim, experts)
    blocks = [double] * int(transformer["num_layers"])
    blocks += [single] * int(transformer["num_single_layers"])
    if checkpointing_interval is None:
        return a_token * sum(blocks)
    recomputed = blocks[::checkpointing_interval]
    kept = sum(blocks) - sum(recomputed)
    inputs = len(recomputed) * tokens * dim
    return a_token * (kept + inputs + max(recomputed, default=0))


def _number_bytes(identity: Identity, device: DeviceKind) -> int:
    """Bytes of one activation; int8 weights compute in fp32 on a CPU."""
    is_int8_on_cpu = device == "cpu" and identity.precision.base != "no_change"
    is_fp32 = identity.precision.compute == "fp32" or is_int8_on_cpu
    return FP32_BYTES if is_fp32 else BF16_BYTES


def _kept_widths(tokens: int, dim: int, inner: int) -> int:
    """Activations that one block keeps per sample; ``inner``: width of its feed-forward."""
    return tokens * (_WIDTHS_BESIDE_FEED_FORWARD * dim + 3 * inner)


def _experts_width(transformer: Mapping[str, Any], dim: int) -> int:
    """Total inner width of the experts that an image token uses, with the shared one."""
    if not transformer.get("num_routed_experts", 4):
        return _feed_forward_width(4 * dim)
    chosen = int(transformer.get("num_activated_experts", 2))
    return chosen * _feed_forward_width(4 * dim) + _feed_forward_width(2 * dim)


def _feed_forward_width(hidden: int) -> int:
    """HiDream's SwiGLU: two thirds of ``hidden``, rounded up to a multiple of 256."""
    return -(-int(2 * hidden / 3) // 256) * 256
