"""Options of full rank on one GPU."""

from dataclasses import replace
from typing import Final

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.part_sizes import transformer_size
from trainer_core.config.plan import ROUNDING_OPTIMIZERS, Clip, Compute
from trainer_core.config.simpletuner.deepspeed import uses_deepspeed
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.optimizer import (
    NAME,
    clips_by_norm,
    is_adamw_bf16,
    written_clip_of,
)
from trainer_core.config.simpletuner.precision import COMPUTE
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.steps import ACCUMULATION
from trainer_core.config.simpletuner.verdicts import Option, Table

FULL_RANK: Final = Table()
_CARD_BYTES: Final = 80_000_000_000
_WEIGHTS: Final[Option[Compute | None]] = FULL_RANK.choice(
    "full_rank_weights",
    {"fp32": "fp32", "bf16": "bf16"},
    None,
    "Reverie's own, with model_type full on one GPU. bf16 holds the trained weights and the "
    "optimizer's state in bf16, in half the memory, and rounds them stochastically, so that small "
    "updates add up. It is the default with adamw_bf16, and where fp32 would take more than 80 GB; "
    "else fp32 is.",
)
_RELEASE: Final[Option[bool | None]] = FULL_RANK.flag(
    "optimizer_release_gradients",
    None,
    "With model_type full on one GPU: each weight is updated within the backward pass and its "
    "gradient freed, so that never all gradients are in memory. It is on by default where weights "
    "are in bf16, a step is one batch and grad_clip_method is not norm. With norm, the gradient is "
    "scaled as the norm of the step before demands (previous_norm); the first step is not clipped.",
)


def with_full_rank_weights(config: Options, base: BaseModel | None) -> Options:
    """The options, with weights in bf16 where nothing says how, and fp32 would fit no such card."""
    if base is None or not is_full_rank(config) or _WEIGHTS.name in config.names:
        return config
    if is_adamw_bf16(config) or _fp32_only(config) is not None:
        return config
    numbers = 3 if config[NAME].name == "optimi-lion" else 4  # weight, gradient and moments
    size_bytes = 4 * numbers * transformer_size(base.transformer_config).parameters
    if size_bytes <= _CARD_BYTES:
        return config
    config.handled(
        _WEIGHTS,
        f"is bf16: in fp32, weights, gradients and state take {size_bytes / 1e9:.0f} GB, and a "
        f"large GPU has {_CARD_BYTES / 1e9:.0f} GB. Set it to fp32, or zero_stage for several "
        "GPUs, for fp32 weights.",
    )
    return replace(config, values={**config.values, _WEIGHTS.name: "bf16"})


def trained_of(config: Options) -> Compute:
    """How weights of full rank and the optimizer's state are held."""
    reason = _fp32_only(config)
    if not is_full_rank(config):
        config.idle("on an adapter, which is fp32", _WEIGHTS)
    elif config[_WEIGHTS] == "bf16" and reason is not None:
        config.problem(_WEIGHTS, "conflict", f"{reason}: set it to fp32, or leave it out.")
    trained = _trained(config)
    if is_adamw_bf16(config) and trained == "fp32":
        config.handled(NAME, "adamw_bf16 is torch-adamw with fp32 weights and states.")
    return trained


def _trained(config: Options) -> Compute:
    if not is_full_rank(config) or _fp32_only(config) is not None:
        return "fp32"
    return config[_WEIGHTS] or ("bf16" if is_adamw_bf16(config) else "fp32")


def _fp32_only(config: Options) -> str | None:
    """Why weights in bf16 cannot be trained; None: they can."""
    if uses_deepspeed(config):
        return "DeepSpeed updates fp32 weights"
    name = config[NAME].name
    if name not in ROUNDING_OPTIMIZERS:
        return f"{name} would write weights in bf16 itself, and round small updates to nothing"
    if config[COMPUTE] == "fp32":
        return "mixed_precision no multiplies in fp32"
    return None


def release_of(config: Options) -> bool:
    """Whether each weight is updated within the backward pass."""
    reason = _keeps_gradients(config)
    if not is_full_rank(config):
        config.idle("on an adapter, whose gradients are small", _RELEASE)
    elif uses_deepspeed(config):
        config.idle("with DeepSpeed, which shards gradients", _RELEASE)
    elif config[_RELEASE] and reason is not None:
        config.problem(_RELEASE, "conflict", f"{reason}: set it to false, or leave it out.")
    return _is_released(config)


def _is_released(config: Options) -> bool:
    wanted = config[_RELEASE]
    if not is_full_rank(config) or uses_deepspeed(config) or _keeps_gradients(config) is not None:
        return False
    if wanted is None:
        return _trained(config) == "bf16" and not clips_by_norm(config)
    return wanted


def _keeps_gradients(config: Options) -> str | None:
    """Why the gradients of all weights have to be kept until the end of a step; None: no need."""
    name = config[NAME].name
    if name not in ROUNDING_OPTIMIZERS:
        return f"{name} updates all weights at once"
    if config[ACCUMULATION] > 1:
        return "the gradients of several batches have to be kept until the last"
    return None


def clip_of(config: Options) -> Clip | None:
    """How gradients are clipped; by the norm only where it is known before the update."""
    clip = written_clip_of(config)
    if clip is None or clip.method != "norm" or not _is_released(config):
        return clip
    config.differs(
        _RELEASE,
        "the norm of all gradients is not known while weights are updated: the step before gives "
        "it, as with grad_clip_method previous_norm.",
    )
    return Clip(method="previous_norm", limit=clip.limit)
