"""Options of the types in which weights are stored and multiplied."""

from typing import Final

from trainer_core.config.plan import (
    Compute,
    Matmul,
    Place,
    Precision,
    Quantization,
    TextCache,
)
from trainer_core.config.plan.matmul import measured_on, needs_of
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.steps import device_of
from trainer_core.config.simpletuner.verdicts import Option, Table, words

PRECISION: Final = Table()
_QUANTIZED_LATER: Final = words(
    "int4-quanto int2-quanto fp8-quanto fp8uz-quanto "
    "int8-torchao int8dq-torchao int8dq-int4-torchao int4-torchao "
    "fp8-torchao fp8wo-torchao fp8-int4-torchao fp8-native "
    "fp8-transformerengine nf4-bnb int8-sdnq uint8-sdnq "
    "int16-sdnq uint16-sdnq fp16-sdnq fp8-sdnq "
    "int6-sdnq int5-sdnq int4-sdnq int3-sdnq "
    "int2-sdnq uint6-sdnq uint5-sdnq uint4-sdnq "
    "uint3-sdnq uint2-sdnq "
)


def _quantization(name: str, reason: str) -> Option[Quantization]:
    default: Quantization = "no_change"
    return PRECISION.choice(
        name, Quantization, default, reason, known=_QUANTIZED_LATER, nearest="int8-quanto"
    )


_BASE: Final = _quantization("base_model_precision", "How the base model's weights are stored.")
_MATMUL: Final[Option[Matmul]] = PRECISION.choice(
    "base_model_matmul_precision",
    Matmul,
    "auto",
    "Reverie's own: how the frozen base is multiplied. fp8 and int8 use the card's 8-bit units and "
    "hold the base in 8 bits; auto is fp8 where the base is held in 8 bits and the card is of "
    "capability 9.0. fp8 needs capability 8.9, int8 8.0. int8 is the more exact one where no "
    "value of a row stands out.",
)
PRECISION.unlike(
    _MATMUL,
    "On a card of capability 9.0 a base in 8 bits is multiplied in fp8 by default; no_change "
    "multiplies it in bf16, as SimpleTuner does.",
)
_ROWS: Final = {"fp8": "e4m3 numbers", "int8": "8-bit integers"}
_ENCODERS: Final = tuple(
    _quantization(f"text_encoder_{n}_precision", f"How text encoder {n} is stored.")
    for n in (1, 2, 3, 4)
)
_QUANTIZE_VIA: Final[Option[Place]] = PRECISION.choice(
    "quantize_via",
    {"cpu": "cpu", "accelerator": "accelerator", "pipeline": "cpu"},
    "accelerator",
    "Where the base's weights are when they are quantised; cpu takes less of the accelerator's "
    "memory. Text encoders are always quantised on the CPU, where they are loaded. "
    "pipeline is taken as cpu.",
)
COMPUTE: Final[Option[Compute]] = PRECISION.choice(
    "mixed_precision",
    {"bf16": "bf16", "no": "fp32"},
    "bf16",
    "bf16, or no for fp32 throughout.",
    known=("fp16", "fp8"),
)
_TEXT_CACHE: Final[Option[TextCache]] = PRECISION.choice(
    "text_cache_precision",
    TextCache,
    "no_change",
    "Reverie's own: how the cache has the embeddings of captions. fp8 stores the vector of each "
    "token in 8 bits with a scale, half the size: 17 MB a caption. no_change stores them in the "
    "type of the computation.",
)
PRECISION.handled("base_model_default_dtype", "mixed_precision decides the type.")
PRECISION.handled("vae_dtype", "The VAE computes in fp32.")
PRECISION.handled(
    "offload_during_startup keep_vae_loaded offload_during_save fully_unload_text_encoder "
    "delete_model_after_load",
    "Encoders, VAE and transformer are loaded when they are needed, never together.",
)
PRECISION.not_built(
    "quantize_activations",
    "Use base_model_matmul_precision: it multiplies in 8 bits.",
    False,
    type_="bool",
)
PRECISION.no_effect(
    "quantization_config", "It belongs to precisions of SimpleTuner that are not built."
)


def precision_of(config: Options) -> Precision:
    """Storage of base model and text encoders, and the type of the computation."""
    base = config[_BASE]
    if is_full_rank(config) and base != "no_change":
        message = "A quantised base cannot be trained: set it to no_change, or train an adapter."
        config.problem(_BASE, "conflict", message)
    matmul = _matmul_of(config)
    if config.given(_QUANTIZE_VIA) and base == "no_change" and matmul not in {"fp8", "int8"}:
        config.idle("where the base is not quantised", _QUANTIZE_VIA)
    first, second, third, fourth = (config[encoder] for encoder in _ENCODERS)
    return Precision(
        base=base,
        matmul=matmul,
        compute=config[COMPUTE],
        text_encoder_1=first,
        text_encoder_2=second,
        text_encoder_3=third,
        text_encoder_4=fourth,
        text_cache=config[_TEXT_CACHE],
    )


def _matmul_of(config: Options) -> Matmul:
    """How the frozen base is multiplied; a problem for each option without 8-bit products."""
    matmul = config[_MATMUL]
    if matmul == "auto" or matmul == "no_change":  # noqa: PLR1714 - mypy narrows only this
        return matmul
    if is_full_rank(config):
        message = f"{matmul} products need a frozen base: set it to auto, or train an adapter."
        config.problem(_MATMUL, "conflict", message)
    if device_of(config) == "cpu":
        message = f"{needs_of(matmul)}: set it to auto, or device to cuda."
        config.problem(_MATMUL, "conflict", message)
    if config[COMPUTE] == "fp32":
        message = f"{matmul} products are part of a bf16 computation: set it to auto, or "
        config.problem(_MATMUL, "conflict", message + "mixed_precision to bf16.")
    if config[_BASE] == "no_change":
        config.differs(
            _MATMUL,
            f"{matmul} holds the base in 8 bits, as rows of {_ROWS[matmul]}, although "
            "base_model_precision is no_change.",
        )
    config.handled(_MATMUL, f"{matmul} products were measured {measured_on(matmul)}.")
    return matmul


def quantize_via_of(config: Options) -> Place:
    """Where the base model's weights are quantised."""
    return config[_QUANTIZE_VIA]
