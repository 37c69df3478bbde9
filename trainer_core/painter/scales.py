"""How much is drawn and trained: the whole model, and a smaller trial for a CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from trainer_core.painter.drawing import SIZES_PX
from trainer_core.painter.grammar import Scene


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Sizes of one training of the painting model, from nothing to a whole base model."""

    sizes_px: tuple[tuple[int, int], ...]
    """Width and height of the pictures."""
    has: Callable[[Scene], bool]
    """Which scenes are drawn."""
    pictures: int
    vae_channels: tuple[int, ...]
    vae_steps: int
    vae_batch_px: int
    """Pixels of a step of the VAE."""
    transformer: Mapping[str, Any]
    batch_size: int
    steps: int
    learning_rate: float
    judged: int
    """Pictures that are painted and judged at the end."""


_WHOLE: Final = Scale(
    sizes_px=SIZES_PX,
    has=lambda _: True,
    pictures=12_000,
    vae_channels=(32, 48, 64, 64),
    vae_steps=5000,
    vae_batch_px=24 * 128 * 128,
    transformer=MappingProxyType({}),
    batch_size=64,
    steps=9500,
    learning_rate=8e-4,
    judged=100,
)
_TRIAL: Final = Scale(
    sizes_px=((64, 64),),
    has=lambda scene: (
        scene.texture == "plain"
        and scene.size == "large"
        and scene.colour in ("red", "yellow", "green", "blue")
        and scene.shape in ("circle", "square", "triangle")
        and scene.background in ("white", "black")
    ),
    pictures=720,
    vae_channels=(8, 16, 24, 24),
    vae_steps=400,
    vae_batch_px=8 * 64 * 64,
    transformer=MappingProxyType(
        {
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 3,
            "llama_layers": [0, 1, 1],
        }
    ),
    batch_size=16,
    steps=1500,
    learning_rate=2e-3,
    judged=20,
)
SCALES: Final[Mapping[str, Scale]] = MappingProxyType({"whole": _WHOLE, "trial": _TRIAL})
