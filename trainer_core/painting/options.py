"""What a `generate` command is asked for. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer_core.config.plan import Quantization


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture to paint."""

    prompt: str
    file: Path
    """PNG; an existing file is replaced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintingOptions:
    """How all pictures of one command are painted."""

    negative_prompt: str
    width_px: int | None
    """None: the height, else the side of the largest square of the base model (HiDream: 1024)."""
    height_px: int | None
    """None: the width."""
    steps: int
    guidance: float
    seed: int
    """Of the noise, the same for each picture."""
    multiplier: float
    """Strength of the adapter: 1 as trained, 0 the base model."""
    precision: Quantization
    """Of the transformer."""
    text_encoder_precision: Quantization
    """Of T5 and Llama."""
    device: Literal["auto", "cpu", "cuda"]
