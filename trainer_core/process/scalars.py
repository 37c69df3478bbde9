"""The numbers of an event that trackers plot, under the names that they plot them with."""

import sys
from collections.abc import Mapping
from typing import Any, Final

SIGMA_BIN_NAMES: Final = ("loss_sigma_0_25", "loss_sigma_25_50", "loss_sigma_50_75",
                          "loss_sigma_75_100")  # fmt: skip
"""In a ``step`` event: the loss of the samples with sigma from 0 to 0.25, and so on."""
_STEP_SCALARS: Final = ("loss", "balance_loss", "learning_rate", "grad_max", "grad_norm",
                        "steps_per_s", "allocated_bytes", "reserved_bytes",
                        *SIGMA_BIN_NAMES)  # fmt: skip
_EVAL_SCALARS: Final = ("mean", "held_out_mean", "low", "high", "min", "max",
                        "similarity_mean", "similarity_min", "similarity_max")  # fmt: skip


def scalars_of(event: str, data: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event of this name; missing ones are left out."""
    named: dict[str, object]
    match event:
        case "step":
            named = {f"train/{name}": data.get(name) for name in _STEP_SCALARS}
        case "eval" if isinstance(data.get("name"), str):
            at = f"eval/{data['name']}"
            if data["name"] == "clip" and isinstance(data.get("weights"), str):
                at = f"{at}/{data['weights']}"
            named = {f"{at}/{name}": data.get(name) for name in _EVAL_SCALARS}
            named |= _means_in(data.get("by_sigma"), "sigma", at)
            named |= _means_in(data.get("by_backend"), "backend", at)
        case _:
            return {}
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max
    }


def _means_in(parts: object, key: str, at: str) -> dict[str, object]:
    """The mean of each part, named such as ``eval/evaluation/sigma_0.2500``."""
    means: dict[str, object] = {}
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, Mapping) and isinstance(value := part.get(key), float | str):
            shown = f"{value:.4f}" if isinstance(value, float) else value
            means[f"{at}/{key}_{shown}"] = part.get("mean")
    return means
