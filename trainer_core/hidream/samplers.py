"""The samplers of a base model: how noise becomes an image in a few steps.

All are schedulers of flow matching. The three published HiDream-I1 models name UniPC (Full) and LCM
(Dev and Fast, which are distilled).
"""

from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from trainer_core.base_models.layout import read_config
from trainer_core.config.plan import Sampler
from trainer_core.errors import BaseModelError

_NAMES: Final[dict[str, Sampler]] = {
    "FlowMatchEulerDiscreteScheduler": "euler",
    "UniPCMultistepScheduler": "unipc",
    "FlowUniPCMultistepScheduler": "unipc",
    "FlowMatchLCMScheduler": "lcm",
    "FlashFlowMatchEulerDiscreteScheduler": "lcm",
}
"""``_class_name`` in scheduler_config.json → the sampler."""


class SeededLcm(FlowMatchLCMScheduler):  # type: ignore[misc]
    """diffusers' LCM sampler with the noise of each step from a generator of its own.

    diffusers' pipeline passes none, so that the noise would come from torch's global generator.
    """

    generator: torch.Generator | None = None
    """Set before the first step."""

    def step(self, *args: Any, **options: Any) -> Any:
        return super().step(*args, **{**options, "generator": self.generator})


Scheduler: TypeAlias = FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler | SeededLcm


def named_sampler(folder: Path) -> Sampler:
    """The sampler that the base model's scheduler_config.json names; raises BaseModelError."""
    return _named(_config(folder), folder)


def load_sampler(
    folder: Path, sampler: Sampler | None = None, shift: float | None = None
) -> Scheduler:
    """A sampler for one base model.

    Args:
        folder: the base model's folder.
        sampler: None: the one that its configuration names, with all settings there.
        shift: of the sigmas; None: that of the configuration.

    Raises:
        BaseModelError: the configuration is missing, or names a sampler that is not of these.
    """
    config = _config(folder)
    named = _named(config, folder)
    wanted = sampler or named
    # The configuration of another class has other settings, but for the shift.
    kept = {k: v for k, v in config.items() if not k.startswith("_")} if wanted == named else {}
    own = config.get("flow_shift" if named == "unipc" else "shift", 1.0)
    size = float(own if shift is None else shift)
    if wanted == "unipc":
        flow = {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": size,
            "use_dynamic_shifting": False,
        }
        unipc: Scheduler = UniPCMultistepScheduler.from_config({**kept, **flow})
        return unipc
    if shift is not None:
        kept["use_dynamic_shifting"] = False  # it would replace the shift
    cls = FlowMatchEulerDiscreteScheduler if wanted == "euler" else SeededLcm
    found: Scheduler = cls.from_config({**kept, "shift": size})
    return found


def _named(config: dict[str, Any], folder: Path) -> Sampler:
    name = config.get("_class_name")
    if name not in _NAMES:
        raise BaseModelError(
            f"{folder}: scheduler_config.json names {name!r}, which is none of {sorted(_NAMES)}"
        )
    return _NAMES[name]


def _config(folder: Path) -> dict[str, Any]:
    return read_config(folder / "scheduler" / "scheduler_config.json")
