"""How much memory a plan takes, without torch: what is held is counted, activations are estimated.

Bytes are those of one process on its device.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from trainer_core.base_models.known import PartConfigs
from trainer_core.base_models.part_sizes import (
    PartSize,
    text_encoder_size,
    transformer_size,
    transformer_tensors,
    vae_parameters,
)
from trainer_core.config.plan import (
    AdaptedModule,
    Identity,
    LokrAdapter,
    LoraAdapter,
    Plan,
    Quantization,
)
from trainer_core.config.plan.shapes import LATENT_CELL_PX, hidream_linears, lokr_shapes

_FP32_BYTES: Final = 4
_BF16_BYTES: Final = 2
_TEXT_TOKENS_IN_A_BLOCK: Final = 3 * 128
"""T5's and Llama's last, which are carried on, and the block's own layer of Llama."""
_PATCH_PX: Final = 2 * LATENT_CELL_PX
_BNB_LEAST_ELEMENTS: Final = 4096
_BNB_BLOCK_ELEMENTS: Final = 256
_BNB_CODEBOOK_BYTES: Final = 256 * _FP32_BYTES
"""bitsandbytes: smaller tensors have fp32 state; others one byte an element, one fp32 maximum a
block, and one codebook for all."""
_WIDTHS_OUTSIDE_FEED_FORWARD: Final = 16
"""Tensors as wide as the model that autograd keeps of a token in a block: inputs of norms,
modulation, projections and attention. With the feed-forward's it comes to 39 GiB for 1024² without
checkpointing; 36 GiB were measured (SimpleTuner 4.10.1, H200: 70 GiB with 34 of weights)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes by part; all but the two estimates are exact."""

    device: Literal["cpu", "cuda"]
    """Where the run is thought to be: weights in bf16 are held as such on cuda only."""
    base_weights_bytes: int
    base_scales_bytes: int
    """Beside int8 weights."""
    adapter_bytes: int
    gradients_bytes: int
    optimizer_state_bytes: int
    ema_bytes: int
    ema_device: Literal["cpu", "accelerator"]
    text_encoder_1_bytes: int | None
    """Of the encoders one at a time is held, while captions are cached."""
    text_encoder_2_bytes: int | None
    text_encoder_3_bytes: int | None
    text_encoder_4_bytes: int | None
    vae_bytes: int | None
    """Held while images are cached."""
    caching_bytes: int | None
    """The largest of the parts that are held while captions and images are cached."""
    held_bytes: int
    """Together on the device while the run trains, without activations."""
    activations_estimate_bytes: int
    """As the plan has it, in the largest bucket."""
    activations_without_checkpointing_estimate_bytes: int
    total_bytes: int
    """What is held and the estimate of activations."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """One trained tensor."""

    elements: int
    starts_at_zero: bool = False


def trained_parameters(identity: Identity, transformer: Mapping[str, Any]) -> int:
    """How many numbers are trained."""
    return sum(tensor.elements for tensor in _trained(identity, transformer))


def trained_modules(identity: Identity, transformer: Mapping[str, Any]) -> int:
    """How many linear layers are adapted, or trained themselves."""
    if identity.adapter is None:
        return len(hidream_linears(transformer))
    return len(identity.adapter.modules)


def plan_memory(plan: Plan, parts: PartConfigs, *, largest_image_px: int) -> Memory:
    """``largest_image_px``: area of the largest bucket."""
    identity, operation = plan.identity, plan.operation
    device: Literal["cpu", "cuda"] = "cpu" if operation.device == "cpu" else "cuda"
    number_bytes = _weight_bytes(identity, device)
    weights, scales = _held(
        transformer_size(parts.transformer), identity.precision.base, number_bytes
    )
    tensors = tuple(_trained(identity, parts.transformer))
    trained_bytes = sum(tensor.elements for tensor in tensors) * _FP32_BYTES
    share = _Share(identity.world_size, operation.zero_stage)
    ema_bytes = 0 if identity.ema is None else trained_bytes
    encoders = _encoders(parts, identity, _frozen_bytes(identity, device))
    vae = None if parts.vae is None else vae_parameters(parts.vae) * _FP32_BYTES
    cached = [size for size in (*encoders, vae) if size is not None]
    largest = _Step(identity, parts.transformer, largest_image_px, device)
    activations = largest.bytes(
        operation.gradient_checkpointing_interval if operation.gradient_checkpointing else None
    )
    base_bytes = share.of_weights(weights)
    gradients = share.of_gradients(trained_bytes)
    state = share.of_state(_optimizer_bytes(identity, tensors))
    adapter_bytes = 0 if identity.adapter is None else trained_bytes
    held = base_bytes + scales + adapter_bytes + gradients + state
    held += ema_bytes if operation.ema_device == "accelerator" or device == "cpu" else 0
    return Memory(
        device=device,
        base_weights_bytes=base_bytes,
        base_scales_bytes=scales,
        adapter_bytes=adapter_bytes,
        gradients_bytes=gradients,
        optimizer_state_bytes=state,
        ema_bytes=ema_bytes,
        ema_device=operation.ema_device,
        text_encoder_1_bytes=encoders[0],
        text_encoder_2_bytes=encoders[1],
        text_encoder_3_bytes=encoders[2],
        text_encoder_4_bytes=encoders[3],
        vae_bytes=vae,
        caching_bytes=max(cached) if cached else None,
        held_bytes=held,
        activations_estimate_bytes=activations,
        activations_without_checkpointing_estimate_bytes=largest.bytes(None),
        total_bytes=held + activations,
    )


def _weight_bytes(identity: Identity, device: str) -> int:
    """Bytes of a number of the base; weights that are trained are fp32 everywhere."""
    return _FP32_BYTES if identity.adapter is None else _frozen_bytes(identity, device)


def _frozen_bytes(identity: Identity, device: str) -> int:
    is_bf16 = identity.precision.compute == "bf16" and device == "cuda"
    return _BF16_BYTES if is_bf16 else _FP32_BYTES


def _held(size: PartSize, quantization: Quantization, number_bytes: int) -> tuple[int, int]:
    """Weights and scales."""
    if quantization == "int8-quanto":
        return size.int8_bytes(number_bytes)
    return size.held_bytes(number_bytes), 0


def _encoders(parts: PartConfigs, identity: Identity, number_bytes: int) -> list[int | None]:
    precision = identity.precision
    wanted = (
        precision.text_encoder_1,
        precision.text_encoder_2,
        precision.text_encoder_3,
        precision.text_encoder_4,
    )
    return [
        None
        if config is None
        else sum(_held(text_encoder_size(number, config), quantization, number_bytes))
        for number, (config, quantization) in enumerate(
            zip(parts.text_encoders, wanted, strict=True), start=1
        )
    ]


@dataclass(frozen=True, slots=True)
class _Share:
    """What DeepSpeed's stage leaves of each part on one of the ranks."""

    ranks: int
    stage: int | None

    def of_state(self, size: int) -> int:
        return self._share(size, from_stage=1)

    def of_gradients(self, size: int) -> int:
        return self._share(size, from_stage=2)

    def of_weights(self, size: int) -> int:
        return self._share(size, from_stage=3)

    def _share(self, size: int, *, from_stage: int) -> int:
        return -(-size // self.ranks) if (self.stage or 0) >= from_stage else size


def _trained(identity: Identity, transformer: Mapping[str, Any]) -> Iterator[_Trained]:
    adapter = identity.adapter
    if adapter is None:
        yield from (_Trained(elements) for elements in transformer_tensors(transformer))
        return
    sides = {
        linear.path: (linear.in_features, linear.out_features)
        for linear in hidream_linears(transformer)
    }
    if isinstance(adapter, LoraAdapter):
        for path in adapter.modules:
            in_, out = sides[path]
            yield _Trained(adapter.rank * in_)
            yield _Trained(adapter.rank * out, starts_at_zero=True)
        return
    for module in adapter.modules:
        yield from _lokr_tensors(adapter, module, *sides[module.path])


def _lokr_tensors(
    adapter: LokrAdapter, module: AdaptedModule, in_: int, out: int
) -> Iterator[_Trained]:
    """w1 and w2, each whole or as two factors, and the scalar."""
    starts_at_zero = not module.use_scalar and adapter.init_lokr_norm is None
    shapes = lokr_shapes(module, in_, out)
    last = "w2_b" if "w2_b" in shapes else "w2"
    for name, shape in shapes.items():
        is_zero = name == "scalar" or (name == last and starts_at_zero)
        yield _Trained(math.prod(shape), is_zero)


def _optimizer_bytes(identity: Identity, tensors: Sequence[_Trained]) -> int:
    elements = sum(tensor.elements for tensor in tensors)
    match identity.optimizer.name:
        case "optimi-lion":
            return _FP32_BYTES * elements
        case "adamw":  # two moments, and a step count for each tensor
            return _FP32_BYTES * (2 * elements + len(tensors))
        case "bnb-lion8bit-paged":
            return _bnb_bytes([tensor.elements for tensor in tensors])
        case "prodigy":  # of what starts at zero the start is kept as one number
            starts = sum(1 if tensor.starts_at_zero else tensor.elements for tensor in tensors)
            return _FP32_BYTES * (3 * elements + starts)


def _bnb_bytes(sizes: Sequence[int]) -> int:
    large = [size for size in sizes if size >= _BNB_LEAST_ELEMENTS]
    maxima = sum(-(-size // _BNB_BLOCK_ELEMENTS) for size in large)
    small = sum(size for size in sizes if size < _BNB_LEAST_ELEMENTS)
    codebook = _BNB_CODEBOOK_BYTES if large else 0
    return sum(large) + codebook + _FP32_BYTES * (maxima + small)


class _Step:
    """Activations of one micro-batch."""

    def __init__(
        self,
        identity: Identity,
        transformer: Mapping[str, Any],
        image_px: int,
        device: Literal["cpu", "cuda"],
    ) -> None:
        is_int8_on_cpu = device == "cpu" and identity.precision.base != "no_change"
        is_fp32 = identity.precision.compute == "fp32" or is_int8_on_cpu
        self._number_bytes = _FP32_BYTES if is_fp32 else _BF16_BYTES
        self._samples = identity.micro_batch_size
        self._image_tokens = max(1, image_px // _PATCH_PX**2)
        self._config = transformer
        heads, head_dim = transformer["num_attention_heads"], transformer["attention_head_dim"]
        self._dim = int(heads) * int(head_dim)

    def bytes(self, interval: int | None) -> int:
        """``interval``: every so many blocks one is recomputed; None: none is."""
        doubles, singles = int(self._config["num_layers"]), int(self._config["num_single_layers"])
        blocks = [self._double()] * doubles + [self._single()] * singles
        if interval is None:
            return sum(blocks)
        recomputed = blocks[::interval]
        whole = sum(blocks) - sum(recomputed)
        inputs = len(recomputed) * self._tokens() * self._dim * self._number_bytes * self._samples
        return whole + inputs + max(recomputed, default=0)

    def _tokens(self) -> int:
        return self._image_tokens + _TEXT_TOKENS_IN_A_BLOCK

    def _double(self) -> int:
        text = _feed_forward_width(4 * self._dim)
        return self._size(self._image_tokens, self._mixture()) + self._size(
            _TEXT_TOKENS_IN_A_BLOCK, text
        )

    def _single(self) -> int:
        return self._size(self._tokens(), self._mixture())

    def _mixture(self) -> int:
        """Inner width of what a token of the image goes through: its experts and the shared one."""
        if not self._config.get("num_routed_experts", 4):
            return _feed_forward_width(4 * self._dim)
        chosen = int(self._config.get("num_activated_experts", 2))
        return chosen * _feed_forward_width(4 * self._dim) + _feed_forward_width(2 * self._dim)

    def _size(self, tokens: int, inner: int) -> int:
        kept = _WIDTHS_OUTSIDE_FEED_FORWARD * self._dim + 3 * inner
        return self._samples * tokens * kept * self._number_bytes


def _feed_forward_width(hidden: int) -> int:
    return -(-int(2 * hidden / 3) // 256) * 256
