"""From a micro-batch of the sampler to what goes through the model.

Every draw has a generator of its own on the CPU, seeded by what it is for: nothing depends on what
was drawn before, on the device, or on the number of ranks.
Letters: B samples, C channels, H × W latent cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from trainer_core.config.plan import Identity, Objective
from trainer_core.data.index import DataIndex, ShardRef
from trainer_core.data.sampler import MicroBatch, draw_seed
from trainer_core.data.shards import ShardFolder
from trainer_core.hidream.objective import noisy_latents, velocity_target
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.vae import draw_latents
from trainer_core.precision.compute import Compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One sample with its text and the name of its random draws."""

    sample: int
    """Position in ``DataIndex.samples``."""
    text: ShardRef
    purpose: str
    """Prefix of what is drawn, such as ``train``."""
    i: int
    slot: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B samples of one bucket, on the device."""

    noisy_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    sigmas_B: torch.Tensor
    """fp32; the model's timesteps are 1000 times them."""
    text: TextEmbeddings
    mask_B1HW: torch.Tensor | None = None
    """Where each sample counts, 0 to 1, fp32; None: everywhere."""
    is_prior_B: torch.Tensor | None = None
    """Which samples the adapter is to leave as the base model has them; None: none."""
    order: int = 0
    """Number of the micro-batch: what an adapter's dropout is seeded by."""


class BatchMaker:
    """Reads rows from shards and draws posterior, noise and sigma."""

    def __init__(
        self,
        index: DataIndex,
        shards: ShardFolder,
        identity: Identity,
        vae: AutoencoderKL,
        compute: Compute,
    ) -> None:
        """``vae``: only its shift and scale are used."""
        self._index = index
        self._shards = shards
        self._identity = identity
        self._vae = vae
        self._compute = compute

    def training(self, micro: MicroBatch) -> Batch:
        """The batch of one micro-batch; waits for shards that are on their way."""
        draws = [
            Draw(
                sample=sample,
                text=self._caption(micro, slot),
                purpose="train",
                i=micro.index,
                slot=slot,
            )
            for slot, sample in enumerate(micro.samples)
        ]
        return self.batch(draws)

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The draws side by side; all of one bucket."""
        rows = [self._sample(draw) for draw in draws]
        latents, noise, sigmas = (torch.cat(parts) for parts in zip(*rows, strict=True))
        device, dtype = self._compute.device, self._compute.weights
        texts = TextEmbeddings.concatenate([self.text(draw.text) for draw in draws])
        return Batch(
            noisy_BCHW=noisy_latents(latents, noise, sigmas).to(device, dtype),
            target_BCHW=velocity_target(latents, noise).to(device),
            sigmas_B=sigmas.to(device),
            text=texts.to(device=device, dtype=dtype),
        )

    def text(self, ref: ShardRef) -> TextEmbeddings:
        """One caption or prompt, on the CPU in the type of its shard."""
        return TextEmbeddings.from_tensors(
            self._shards.read_row(self._index.shards[ref.shard], ref.row)
        )

    def _caption(self, micro: MicroBatch, slot: int) -> ShardRef:
        dropout = self._identity.caption_dropout_probability
        if dropout > 0:
            generator = self._generator("caption dropout", micro.index, slot)
            if torch.rand(1, generator=generator).item() < dropout:
                return self._index.prompts[""]
        return self._index.samples[micro.samples[slot]].texts[micro.captions[slot]]

    def _sample(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents and noise [1, C, H, W] and sigma [1], fp32 on the CPU."""
        sample = self._index.samples[draw.sample]
        moments = self._shards.read_row(
            self._index.shards[sample.latents.shard], sample.latents.row
        )
        posterior, noise, sigma = (
            self._generator(f"{draw.purpose} {what}", draw.i, draw.slot)
            for what in ("posterior", "noise", "sigma")
        )
        latents = draw_latents(self._vae, moments["mean"], moments["std"], posterior)
        return (
            latents,
            torch.randn(latents.shape, generator=noise),
            torch.tensor([draw_sigma(self._identity.objective, sigma)]),
        )

    def _generator(self, purpose: str, i: int, slot: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self._identity.seed, purpose, i, slot))


def draw_sigma(objective: Objective, generator: torch.Generator) -> float:
    """One noise share in (0, 1): shifted(sigmoid(scale · normal))."""
    normal = torch.randn(1, generator=generator, dtype=torch.float64).item()
    sigma = 1 / (1 + math.exp(-objective.sigma.sigmoid_scale * normal))
    return objective.shift * sigma / (1 + (objective.shift - 1) * sigma)
