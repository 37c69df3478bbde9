"""Options of full rank on one GPU."""

from typing import Final

from trainer_core.config.plan import ROUNDING_OPTIMIZERS, Compute
from trainer_core.config.simpletuner.deepspeed import uses_deepspeed
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.optimizer import NAME, is_adamw_bf16
from trainer_core.config.simpletuner.precision import COMPUTE
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

FULL_RANK: Final = Table()
_WEIGHTS: Final[Option[Compute | None]] = FULL_RANK.choice(
    "full_rank_weights",
    {"fp32": "fp32", "bf16": "bf16"},
    None,
    "Reverie's own, with model_type full on one GPU. bf16 holds the trained weights and the "
    "optimizer's state in bf16, in half the memory, and rounds them stochastically, so that small "
    "updates add up. It is the default with adamw_bf16; fp32 is that with other optimizers.",
)


def trained_of(config: Options) -> Compute:
    """How weights of full rank and the optimizer's state are held."""
    wanted = config[_WEIGHTS]
    reason = _fp32_only(config)
    if not is_full_rank(config):
        config.idle("on an adapter, which is fp32", _WEIGHTS)
    elif wanted == "bf16" and reason is not None:
        config.problem(_WEIGHTS, "conflict", f"{reason}: set it to fp32, or leave it out.")
    elif wanted == "bf16" or (wanted is None and is_adamw_bf16(config) and reason is None):
        return "bf16"
    if is_adamw_bf16(config):
        config.handled(NAME, "adamw_bf16 is torch-adamw with fp32 weights and states.")
    return "fp32"


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
