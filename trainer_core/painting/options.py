"""What the `generate` command is asked for, and how one image is sampled. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer_core.config.plan import Compute, Quantization, Sampler, TextCache


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """One image to generate."""

    prompt: str
    file: Path
    """PNG; an existing file is replaced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How the scheduler and classifier-free guidance turn noise into one image."""

    width_px: int
    """A multiple of 16."""
    height_px: int
    """A multiple of 16."""
    steps: int
    """Steps of the scheduler."""
    guidance: float
    """Scale of classifier-free guidance; the negative prompt is used where it is above 1."""
    seed: int
    """Seed of the noise. The noise is drawn on the CPU, so it is the same on every device."""
    sampler: Sampler | None = None
    """None: the one that the base model's scheduler names."""
    shift: float | None = None
    """Shift of the sampler's sigmas; None: the base model's own."""
    guidance_rescale: float = 0.0
    """Of guidance above 1: 0 leaves it as it is; at 1 what is guided deviates as the prompt's own
    output does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintingOptions:
    """How all images of one command are generated."""

    negative_prompt: str
    width_px: int | None
    """None: as the height. If both are None, the side of the largest square that fits."""
    height_px: int | None
    """None: as the width."""
    steps: int
    guidance: float
    seed: int
    """Seed of the noise; every image uses the same one."""
    multiplier: float
    """Strength of the adapter: 1 is the adapter as trained, 0 the base model alone."""
    precision: Quantization
    """Quantisation of the transformer."""
    text_encoder_precision: Quantization
    """Quantisation of T5 and Llama."""
    text_cache: TextCache = "no_change"
    """What a run has as ``text_cache_precision``: 8 bits round the prompts."""
    compute: Compute = "bf16"
    """What a run has as ``mixed_precision``."""
    sampler: Sampler | None = None
    shift: float | None = None
    guidance_rescale: float = 0.0
    """As in ``SamplingOptions``."""
    device: Literal["auto", "cpu", "cuda"]
