"""How noisy a sample is made: a base law, then a shift towards noise."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer_core.config.plan import Objective, TimestepSampling


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoShift:
    """The sampler's own shift exp(mu), where mu is linear in the number of image tokens.

    Source: diffusers' HiDreamImagePipeline, ``calculate_shift``, and its ``exponential`` shift.
    """

    fewest_tokens: int = 256
    most_tokens: int = 4096
    mu_at_fewest: float = 0.5
    mu_at_most: float = 1.15

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> "AutoShift":
        """With what the base model's scheduler says; what it leaves out is as above."""
        usual = cls()
        return cls(
            fewest_tokens=config.get("base_image_seq_len", usual.fewest_tokens),
            most_tokens=config.get("max_image_seq_len", usual.most_tokens),
            mu_at_fewest=config.get("base_shift", usual.mu_at_fewest),
            mu_at_most=config.get("max_shift", usual.mu_at_most),
        )

    def at(self, image_tokens: int) -> float:
        """The shift of an image of so many patches; also beyond both ends."""
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
    """One noise share, 0 to 1.

    Args:
        objective: law and shift.
        generator: of this draw alone.
        turn: number of the sample in the run, counted through; a list in turn goes by it.
        image_tokens: patches of the image, for the shift that follows them.
        auto_shift: how it follows them.
    """
    if objective.sigma.name == "list":
        return _listed(objective.sigma, generator, turn)
    sigma = _drawn(objective.sigma, generator)
    shift = auto_shift.at(image_tokens) if objective.auto_shift else objective.shift
    return shift * sigma / (1 + (shift - 1) * sigma)


def _listed(law: TimestepSampling, generator: torch.Generator, turn: int) -> float:
    if law.order == "round-robin":
        return law.values[turn % len(law.values)]
    return law.values[int(torch.randint(len(law.values), (1,), generator=generator).item())]


def _drawn(law: TimestepSampling, generator: torch.Generator) -> float:
    if law.name == "uniform":
        return torch.rand(1, generator=generator, dtype=torch.float64).item()
    if law.name == "beta":
        # torch has no beta law that takes a generator.
        seed = int(torch.randint(1 << 62, (1,), generator=generator).item())
        return random.Random(seed).betavariate(law.beta_alpha, law.beta_beta)  # noqa: S311 - no secret
    normal = torch.randn(1, generator=generator, dtype=torch.float64).item()
    return 1 / (1 + math.exp(-law.sigmoid_scale * normal))
