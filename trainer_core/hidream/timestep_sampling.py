"""Timestep sampling: draws sigma from a distribution and shifts it towards noise."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer_core.config.plan import Objective, TimestepSampling


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoShift:
    """The shift exp(mu) of diffusers' scheduler, with mu linear in the number of image tokens.

    Source: diffusers' HiDreamImagePipeline, ``calculate_shift``, and its ``exponential`` shift.
    """

    fewest_tokens: int = 256
    most_tokens: int = 4096
    mu_at_fewest: float = 0.5
    mu_at_most: float = 1.15

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> "AutoShift":
        """From the config of the base model's scheduler, with defaults for missing keys."""
        usual = cls()
        return cls(
            fewest_tokens=config.get("base_image_seq_len", usual.fewest_tokens),
            most_tokens=config.get("max_image_seq_len", usual.most_tokens),
            mu_at_fewest=config.get("base_shift", usual.mu_at_fewest),
            mu_at_most=config.get("max_shift", usual.mu_at_most),
        )

    def at(self, image_tokens: int) -> float:
        """The shift for this number of patches; also linear outside of the two limits."""
        slope = (self.mu_at_most - self.mu_at_fewest) / (self.most_tokens - self.fewest_tokens)
        return math.exp(self.mu_at_fewest + slope * (image_tokens - self.fewest_tokens))


def draw_sigma(
    objective: Objective,
    generator: torch.Generator,
    *,
    turn: int,
    image_tokens: int,
    auto_shift: AutoShift,
) -> float:
    """One sigma: the share of noise in a sample, 0 to 1.

    Args:
        objective: distribution and shift.
        generator: used for this draw alone.
        turn: number of the sample in the run; selects the value of a ``round-robin`` list.
        image_tokens: number of patches of the image; used by the automatic shift.
        auto_shift: the automatic shift.
    """
    if objective.sigma.name == "list":
        return _listed(objective.sigma, generator, turn)
    sigma = _drawn(objective.sigma, generator)
    shift = auto_shift.at(image_tokens) if objective.auto_shift else objective.shift
    return shift * sigma / (1 + (shift - 1) * sigma)


def _listed(sampling: TimestepSampling, generator: torch.Generator, turn: int) -> float:
    if sampling.order == "round-robin":
        return sampling.values[turn % len(sampling.values)]
    return sampling.values[
        int(torch.randint(len(sampling.values), (1,), generator=generator).item())
    ]


def _drawn(sampling: TimestepSampling, generator: torch.Generator) -> float:
    if sampling.name == "uniform":
        return torch.rand(1, generator=generator, dtype=torch.float64).item()
    if sampling.name == "beta":
        # torch has no beta distribution that takes a generator.
        seed = int(torch.randint(1 << 62, (1,), generator=generator).item())
        return random.Random(seed).betavariate(sampling.beta_alpha, sampling.beta_beta)  # noqa: S311 - no secret
    normal = torch.randn(1, generator=generator, dtype=torch.float64).item()
    return 1 / (1 + math.exp(-sampling.sigmoid_scale * normal))
