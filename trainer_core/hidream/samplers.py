"""The samplers of a base model: how noise becomes an image in a few steps.

All are schedulers of flow matching. The three published HiDream-I1 models name UniPC (Full) and LCM
(Dev and Fast, which are distilled).
"""

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A step that a sampler has taken. Letters: N images, C channels, h × w cells."""

    noisy_NChw: torch.Tensor
    """The latents before the step."""
    velocity_NChw: torch.Tensor
    """What the network said of them, with guidance: from data to noise."""
    sigma: torch.Tensor
    """Their noise level, 0-dimensional."""

    def clean(self) -> torch.Tensor:
        """The latents without noise as the network saw them at this step, [N, C, h, w] in fp32.

        In flow matching noisy = (1 - sigma) clean + sigma noise and velocity = noise - clean, so
        clean = noisy - sigma velocity, whatever the sampler does with it then.
        """
        sigma = self.sigma.to(self.noisy_NChw.device, torch.float32)
        return self.noisy_NChw.float() - sigma * self.velocity_NChw.float()


class _Remembering:
    """Keeps what each step was taken from, for the schedulers of diffusers."""

    taken: Taken | None = None
    """The last step; None before the first."""

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any
    ) -> Any:
        own: Any = self
        done = super().step(model_output, timestep, sample, **options)  # type: ignore[misc]
        sigma = own.sigmas[own.step_index - 1]
        self.taken = Taken(noisy_NChw=sample, velocity_NChw=model_output, sigma=sigma)
        return done


class Euler(_Remembering, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """diffusers' Euler sampler, which keeps what its last step was taken from."""


class UniPc(_Remembering, UniPCMultistepScheduler):  # type: ignore[misc]
    """diffusers' UniPC sampler, which keeps what its last step was taken from."""


class SeededLcm(_Remembering, FlowMatchLCMScheduler):  # type: ignore[misc]
    """diffusers' LCM sampler with the noise of each step from a generator of its own.

    diffusers' pipeline passes none, so that the noise would come from torch's global generator.
    """

    generator: torch.Generator | None = None
    """Set before the first step."""

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any
    ) -> Any:
        return super().step(
            model_output, timestep, sample, **{**options, "generator": self.generator}
        )


Scheduler: TypeAlias = Euler | UniPc | SeededLcm


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
        unipc: Scheduler = UniPc.from_config({**kept, **flow})
        return unipc
    if shift is not None:
        kept["use_dynamic_shifting"] = False  # it would replace the shift
    cls = Euler if wanted == "euler" else SeededLcm
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
