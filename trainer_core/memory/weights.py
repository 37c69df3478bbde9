"""Bytes of the weights of a base model's parts, quantised or not."""

from collections.abc import Mapping
from typing import Any, Final, Literal, assert_never

from trainer_core.base_models.known import PartConfigs
from trainer_core.base_models.part_sizes import (
    PartSize,
    text_encoder_size,
    transformer_size,
    vae_parameters,
)
from trainer_core.config.plan import Identity, Plan, Quantization

DeviceKind = Literal["cpu", "cuda"]

FP32_BYTES: Final = 4
BF16_BYTES: Final = 2
_NUMBERS_BESIDE_SCALES: Final = 2
"""A linear layer quantised by optimum-quanto also stores one scale of its input and one of its
output, in the dtype of the weight scales."""


def base_weight_bytes(
    identity: Identity, transformer: Mapping[str, Any], number_bytes: int
) -> tuple[int, int]:
    """Bytes of the transformer: (weights, scales of int8 weights).

    ``number_bytes``: of one number that is not quantised, as ``base_number_bytes`` says.
    """
    return _stored_bytes(transformer_size(transformer), identity.precision.base, number_bytes)


def base_number_bytes(plan: Plan, device: DeviceKind) -> int:
    """Bytes of one weight of the transformer that is not quantised.

    DeepSpeed keeps fp32 copies of weights that it trains, and so these may be bf16.
    """
    if plan.identity.adapter is None and plan.operation.zero_stage is None:
        return trained_number(plan.identity)
    return _frozen_number(plan.identity, device)


def trained_number(identity: Identity) -> int:
    """Bytes of one trained number, which are also those of its gradient and of its moments."""
    return BF16_BYTES if identity.precision.trained == "bf16" else FP32_BYTES


def text_encoder_bytes(
    identity: Identity, parts: PartConfigs, device: DeviceKind
) -> tuple[int | None, ...]:
    """Bytes of each of the four text encoders with its scales; None if it is not known."""
    precision = identity.precision
    quantizations = (
        precision.text_encoder_1,
        precision.text_encoder_2,
        precision.text_encoder_3,
        precision.text_encoder_4,
    )
    number_bytes = _frozen_number(identity, device)
    return tuple(
        None
        if config is None
        else sum(_stored_bytes(text_encoder_size(number, config), quantization, number_bytes))
        for number, (config, quantization) in enumerate(
            zip(parts.text_encoders, quantizations, strict=True), start=1
        )
    )


def vae_bytes(parts: PartConfigs) -> int | None:
    """Bytes of the VAE, which is always fp32; None if it is not known."""
    return None if parts.vae is None else vae_parameters(parts.vae) * FP32_BYTES


def _frozen_number(identity: Identity, device: DeviceKind) -> int:
    """Bytes of one frozen weight that is not quantised."""
    if device == "cpu":
        return FP32_BYTES
    match identity.precision.compute:
        case "bf16":
            return BF16_BYTES
        case "fp32":
            return FP32_BYTES
    assert_never(identity.precision.compute)


def _stored_bytes(size: PartSize, quantization: Quantization, number_bytes: int) -> tuple[int, int]:
    """(Weights, scales); ``number_bytes``: bytes of one number that is not quantised."""
    match quantization:
        case "no_change":
            return size.parameters * number_bytes, 0
        case "int8-quanto":
            others = size.parameters - size.linear_weights
            scales = size.linear_rows + _NUMBERS_BESIDE_SCALES * size.linears
            return size.linear_weights + others * number_bytes, scales * number_bytes
    assert_never(quantization)
