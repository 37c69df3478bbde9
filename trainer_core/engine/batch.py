"""Builds the tensors of a micro-batch.

Each random draw has its own CPU generator, seeded by the purpose of the draw. So no draw depends on
earlier draws, on the device, or on the number of ranks.
Letters: B samples, C channels, H × W latent cells.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import torch
from diffusers import AutoencoderKL

from trainer_core.config.plan import Identity
from trainer_core.data.entries import EntryFolder
from trainer_core.data.index import DataIndex
from trainer_core.data.permutation import draw_seed
from trainer_core.data.sampler import MicroBatch
from trainer_core.hidream.objective import noisy_latents, velocity_target
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.timestep_sampling import AutoShift, draw_sigma
from trainer_core.hidream.vae import draw_latents
from trainer_core.precision.compute import Compute

_CELLS_A_PATCH: Final = 4
"""The transformer's patches are two cells wide and two high."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One sample with its text, and the parts of the seed of its random draws."""

    sample: int
    """Position in ``DataIndex.samples``."""
    text: int
    """Position of its caption in ``DataIndex.entries``."""
    purpose: str
    """Purpose of the draws, such as ``train``; part of each seed."""
    i: int
    """Number of the micro-batch; part of each seed."""
    slot: int
    """Position in the micro-batch; part of each seed."""
    slots: int = 1
    """Samples in a micro-batch."""
    crop: int = 0
    """Number of the image's crop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B samples of one bucket; all tensors are on one device."""

    noisy_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    sigmas_B: torch.Tensor
    """fp32; the model's timesteps are 1000 times them."""
    text: TextEmbeddings
    mask_B1HW: torch.Tensor | None = None
    """Loss weight of each cell, 0 to 1, fp32; None: 1 everywhere."""
    is_prior_B: torch.Tensor | None = None
    """Booleans: the samples whose target is the base's own prediction; None: no sample."""
    dropout_seed: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    """Seed of an adapter's dropout, 0-dimensional, int64; a function of the run's seed and of the
    number of the micro-batch."""

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with ``change`` applied to each of its tensors."""
        mask, is_prior, text = self.mask_B1HW, self.is_prior_B, self.text
        return Batch(
            noisy_BCHW=change(self.noisy_BCHW),
            target_BCHW=change(self.target_BCHW),
            sigmas_B=change(self.sigmas_B),
            text=text.map(change),
            mask_B1HW=None if mask is None else change(mask),
            is_prior_B=None if is_prior is None else change(is_prior),
            dropout_seed=change(self.dropout_seed),
        )

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, its text in the type of its latents."""
        return self.map(lambda tensor: tensor.to(device)).with_whole_text()

    def with_whole_text(self) -> "Batch":
        """The batch with its text in the type of its latents, in place of rows of 8 bits."""
        device, dtype = self.noisy_BCHW.device, self.noisy_BCHW.dtype
        return replace(self, text=self.text.to(device=device, dtype=dtype))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Each tensor, always in the same order."""
        found: list[torch.Tensor] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return tuple(found)


class BatchMaker:
    """Reads the entries of a batch from the cache, and draws latents, noise, sigmas and masks.

    Its batches are on the CPU. Latents are in the type that the network reads; the text is as in
    the cache, so that half of it is copied where that has 8 bits (``Batch.with_whole_text``).
    """

    def __init__(
        self,
        index: DataIndex,
        entries: EntryFolder,
        identity: Identity,
        vae: AutoencoderKL,
        compute: Compute,
        *,
        auto_shift: AutoShift,
    ) -> None:
        """
        Args:
            index: the run's data.
            entries: the folder that the entries are read from.
            identity: the identity of the run's plan.
            vae: only its shift and scale are used.
            compute: its type of weights is that of the batches.
            auto_shift: from the base model's scheduler; used only where the objective has
                ``auto_shift``.
        """
        self._index = index
        self._entries = entries
        self._identity = identity
        self._vae = vae
        self._dtype = compute.weights
        self._auto_shift = auto_shift
        self._prior = {b.id for b in identity.backends if b.is_regularisation}

    def reading_from(self, entries: EntryFolder) -> Self:
        """The same, from a folder of its own: a folder serves one thread."""
        other = copy.copy(self)
        other._entries = entries
        return other

    def training(self, micro: MicroBatch) -> Batch:
        """The batch of one micro-batch; waits for entries that are still missing."""
        draws = [
            Draw(
                sample=sample,
                text=self._caption(micro, slot),
                purpose="train",
                i=micro.index,
                slot=slot,
                slots=len(micro.samples),
                crop=micro.crops[slot],
            )
            for slot, sample in enumerate(micro.samples)
        ]
        return replace(
            self.batch(draws),
            is_prior_B=self._is_prior(micro),
            dropout_seed=self._dropout_seed(micro),
        )

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """One sample for each draw, all of one bucket; the target of each is its own image."""
        rows = [self._sample(draw) for draw in draws]
        latents, noise, sigmas = (torch.cat(parts) for parts in zip(*rows, strict=True))
        texts = TextEmbeddings.concatenate([self.text(draw.text) for draw in draws])
        masks = [self._mask(draw) for draw in draws]
        return self.assembled(latents, noise, sigmas, texts, masks)

    def assembled(
        self,
        latents_BCHW: torch.Tensor,
        noise_BCHW: torch.Tensor,
        sigmas_B: torch.Tensor,
        text: TextEmbeddings,
        masks: Sequence[torch.Tensor | None],
    ) -> Batch:
        """The batch of latents, noise and sigmas in fp32 on the CPU.

        ``masks``: of each sample, [1, 1, H, W]; None: 1 everywhere.
        """
        return Batch(
            noisy_BCHW=noisy_latents(latents_BCHW, noise_BCHW, sigmas_B).to(self._dtype),
            target_BCHW=velocity_target(latents_BCHW, noise_BCHW),
            sigmas_B=sigmas_B,
            text=text,
            mask_B1HW=_joined(masks, latents_BCHW),
        )

    def latents(self, sample: int, crop: int, posterior: torch.Generator) -> torch.Tensor:
        """Latents of a crop of an image, [1, C, H, W], fp32 on the CPU, drawn by ``posterior``."""
        moments = self._read(self._index.samples[sample].crop(crop).latents)
        return draw_latents(self._vae, moments["mean"], moments["std"], posterior)

    def mask(self, sample: int, crop: int) -> torch.Tensor | None:
        """The mask of a crop of an image, [1, 1, H, W]; None where it has none."""
        entry = self._index.samples[sample].crop(crop).mask
        return None if entry is None else self._read(entry)["mask"]

    def text(self, entry: int) -> TextEmbeddings:
        """One caption or prompt by its entry, on the CPU in the type of the cache."""
        return TextEmbeddings.from_tensors(self._read(entry))

    def _read(self, entry: int) -> dict[str, torch.Tensor]:
        return self._entries.read(self._index.entries[entry].digest, self._index.kind_of(entry))

    def _is_prior(self, micro: MicroBatch) -> torch.Tensor | None:
        flags = [self._index.samples[sample].backend in self._prior for sample in micro.samples]
        return torch.tensor(flags) if any(flags) else None

    def _dropout_seed(self, micro: MicroBatch) -> torch.Tensor:
        """The 64 bits of the draw as a signed number."""
        bits = draw_seed(self._identity.seed, "adapter dropout", micro.index, 0)
        return torch.tensor(bits - (1 << 64) if bits >> 63 else bits)

    def _caption(self, micro: MicroBatch, slot: int) -> int:
        dropout = self._identity.caption_dropout_probability
        if self._happens(dropout, "caption dropout", micro.index, slot):
            return self._index.prompts[""]
        return self._index.samples[micro.samples[slot]].texts[micro.captions[slot]]

    def _mask(self, draw: Draw) -> torch.Tensor | None:
        """The mask, [1, 1, H, W]; None where the sample has none or its draw does not apply it."""
        has_mask = self._index.samples[draw.sample].crop(draw.crop).mask is not None
        probability = self._identity.objective.masked_loss_probability
        if has_mask and self._happens(probability, f"{draw.purpose} mask", draw.i, draw.slot):
            return self.mask(draw.sample, draw.crop)
        return None

    def _sample(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents and noise [1, C, H, W] and sigma [1], fp32 on the CPU."""
        posterior, noise, sigma = (
            self._generator(f"{draw.purpose} {what}", draw.i, draw.slot)
            for what in ("posterior", "noise", "sigma")
        )
        latents = self.latents(draw.sample, draw.crop, posterior)
        drawn = draw_sigma(
            self._identity.objective,
            sigma,
            turn=draw.i * draw.slots + draw.slot,
            image_tokens=latents[0, 0].numel() // _CELLS_A_PATCH,
            auto_shift=self._auto_shift,
        )
        return latents, torch.randn(latents.shape, generator=noise), torch.tensor([drawn])

    def _happens(self, probability: float, purpose: str, i: int, slot: int) -> bool:
        """True with this probability. At 0 and 1 nothing is drawn."""
        if not 0 < probability < 1:
            return probability >= 1
        return torch.rand(1, generator=self._generator(purpose, i, slot)).item() < probability

    def _generator(self, purpose: str, i: int, slot: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self._identity.seed, purpose, i, slot))


def _joined(
    masks: Sequence[torch.Tensor | None], latents_BCHW: torch.Tensor
) -> torch.Tensor | None:
    """The masks of a batch, [B, 1, H, W]; None where no sample has one."""
    if all(mask is None for mask in masks):
        return None
    everywhere = torch.ones_like(latents_BCHW[:1, :1])
    return torch.cat([everywhere if mask is None else mask for mask in masks])
