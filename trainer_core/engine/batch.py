"""Builds the tensors of a micro-batch.

Each random draw has its own CPU generator, seeded by the purpose of the draw. So no draw depends on
earlier draws, on the device, or on the number of ranks.
Letters: B samples, C channels, H × W latent cells.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import torch
from diffusers import AutoencoderKL

from trainer_core.config.plan import Identity
from trainer_core.data.entries import EntryFolder
from trainer_core.data.index import Crop, DataIndex
from trainer_core.data.permutation import draw_seed
from trainer_core.data.sampler import MicroBatch
from trainer_core.hidream.objective import write_noisy_and_target
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.timestep_sampling import AutoShift, draw_sigma
from trainer_core.hidream.vae import Moments, draw_latents
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
        self._is_on_card = compute.device.type == "cuda"
        self._auto_shift = auto_shift
        self._prior = {b.id for b in identity.backends if b.is_regularisation}
        self._room = _Room()
        self._pins = False

    def for_feed(self, entries: EntryFolder) -> Self:
        """The same for the thread that feeds the steps, from a folder of its own.

        Where the steps are computed on a card, its batches are in pinned memory, which torch keeps
        for later ones of the same size.
        """
        other = copy.copy(self)
        other._entries = entries
        other._room = _Room()
        other._pins = self._is_on_card
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
        crops = [self._index.samples[draw.sample].crop(draw.crop) for draw in draws]
        moments = [self._moments(crop) for crop in crops]
        latents_BCHW, noise_BCHW = self._room.pair_of((len(draws), *moments[0].mean.shape[1:]))
        posteriors = (self._drawing(draw, "posterior") for draw in draws)
        draw_latents(self._vae, moments, posteriors, out=latents_BCHW)
        for draw, noise_1CHW in zip(draws, torch.split(noise_BCHW, 1), strict=True):
            noise_1CHW.normal_(generator=self._drawing(draw, "noise"))
        image_tokens = latents_BCHW.shape[2:].numel() // _CELLS_A_PATCH
        return self.assembled(
            latents_BCHW,
            noise_BCHW,
            torch.tensor([self._sigma(draw, image_tokens) for draw in draws]),
            self._texts(draws),
            [self._mask(draw, crop) for draw, crop in zip(draws, crops, strict=True)],
        )

    def assembled(
        self,
        latents_BCHW: torch.Tensor,
        noise_BCHW: torch.Tensor,
        sigmas_B: torch.Tensor,
        text: TextEmbeddings,
        masks: Sequence[torch.Tensor | None],
    ) -> Batch:
        """The batch of latents, noise and sigmas in fp32 on the CPU; overwrites latents and noise.

        ``masks``: of each sample, [1, 1, H, W]; None: 1 everywhere.
        """
        noisy_BCHW = self._empty(latents_BCHW.shape, self._dtype)
        target_BCHW = self._empty(latents_BCHW.shape, torch.float32)
        write_noisy_and_target(
            latents_BCHW, noise_BCHW, sigmas_B, noisy_BCHW=noisy_BCHW, target_BCHW=target_BCHW
        )
        return Batch(
            noisy_BCHW=noisy_BCHW,
            target_BCHW=target_BCHW,
            sigmas_B=sigmas_B,
            text=text,
            mask_B1HW=_joined(masks, latents_BCHW),
        )

    def latents(self, sample: int, posterior: torch.Generator) -> torch.Tensor:
        """Latents of an image's first crop, [1, C, H, W], fp32 on the CPU, drawn by a generator."""
        moments = self._moments(self._index.samples[sample].crop(0))
        latents_1CHW = torch.empty(moments.mean.shape)
        draw_latents(self._vae, [moments], [posterior], out=latents_1CHW)
        return latents_1CHW

    def mask(self, sample: int) -> torch.Tensor | None:
        """The mask of an image's first crop, [1, 1, H, W]; None where it has none."""
        entry = self._index.samples[sample].crop(0).mask
        return None if entry is None else self._read(entry)["mask"]

    def text(self, entry: int) -> TextEmbeddings:
        """One caption or prompt by its entry, on the CPU in the type of the cache."""
        return TextEmbeddings.from_tensors(self._read(entry))

    def _texts(self, draws: Sequence[Draw]) -> TextEmbeddings:
        """The captions of the draws as one batch, all of which have rows of 8 bits, or none."""
        rows = [self._read(draw.text) for draw in draws]
        joined = {}
        for name, first in rows[0].items():
            shape = len(rows), *first.shape[1:]
            joined[name] = self._empty(shape, first.dtype)
            torch.cat([row[name] for row in rows], out=joined[name])
        return TextEmbeddings.from_tensors(joined)

    def _moments(self, crop: Crop) -> Moments:
        return Moments(**self._read(crop.latents))

    def _read(self, entry: int) -> Mapping[str, torch.Tensor]:
        return self._entries.read(self._index.entries[entry].digest, self._index.kind_of(entry))

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self._pins)

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

    def _mask(self, draw: Draw, crop: Crop) -> torch.Tensor | None:
        """The mask, [1, 1, H, W]; None where the crop has none or its draw does not apply it."""
        if crop.mask is None:
            return None
        probability = self._identity.objective.masked_loss_probability
        is_applied = self._happens(probability, f"{draw.purpose} mask", draw.i, draw.slot)
        return self._read(crop.mask)["mask"] if is_applied else None

    def _sigma(self, draw: Draw, image_tokens: int) -> float:
        return draw_sigma(
            self._identity.objective,
            self._drawing(draw, "sigma"),
            turn=draw.i * draw.slots + draw.slot,
            image_tokens=image_tokens,
            auto_shift=self._auto_shift,
        )

    def _happens(self, probability: float, purpose: str, i: int, slot: int) -> bool:
        """True with this probability. At 0 and 1 nothing is drawn."""
        if not 0 < probability < 1:
            return probability >= 1
        return torch.rand(1, generator=self._generator(purpose, i, slot)).item() < probability

    def _drawing(self, draw: Draw, what: str) -> torch.Generator:
        return self._generator(f"{draw.purpose} {what}", draw.i, draw.slot)

    def _generator(self, purpose: str, i: int, slot: int) -> torch.Generator:
        """The thread's generator, seeded for one draw: it is used before it is asked for again."""
        return self._room.generator.manual_seed(draw_seed(self._identity.seed, purpose, i, slot))


class _Room:
    """What a thread builds a batch with, used again for the next one."""

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self._flat = torch.empty(0)

    def pair_of(self, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Two fp32 tensors of any values, which are good until the next call."""
        count = math.prod(shape)
        if len(self._flat) < 2 * count:
            self._flat = torch.empty(2 * count)
        one, other = self._flat[: 2 * count].view(2, *shape)
        return one, other


def _joined(
    masks: Sequence[torch.Tensor | None], latents_BCHW: torch.Tensor
) -> torch.Tensor | None:
    """The masks of a batch, [B, 1, H, W]; None where no sample has one."""
    if all(mask is None for mask in masks):
        return None
    everywhere = torch.ones_like(latents_BCHW[:1, :1])
    return torch.cat([everywhere if mask is None else mask for mask in masks])
