"""The numbers of an event that trackers plot, under the names that they plot them with."""

import sys
from collections.abc import Mapping
from typing import Any, Final

_STEP_SCALARS: Final = ("loss", "balance_loss", "learning_rate", "grad_max", "steps_per_s",
                        "allocated_bytes", "reserved_bytes")  # fmt: skip
_EVAL_SCALARS: Final = ("mean", "held_out_mean")


def scalars_of(event: str, data: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event of this name; missing ones are left out."""
    match event:
        case "step":
            named = {f"train/{name}": data.get(name) for name in _STEP_SCALARS}
        case "eval" if isinstance(data.get("name"), str):
            named = {f"eval/{data['name']}/{name}": data.get(name) for name in _EVAL_SCALARS}
        case _:
            return {}
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max
    }
