"""The device, the model's shape and the sizes of a run of the benchmark: true or tiny."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.step.cases import Case
from benchmarks.step.weights import TORCH_GAIN
from trainer_core.base_models.known import FLAVOURS, KNOWN_MODELS, WIDE_NAME
from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.engine.batch import Batch
from trainer_core.hidream.text import TextEmbeddings

CAPTION_TOKENS: Final = 128
_TINY_SHRINKS: Final = 8
"""The tiny run divides the sides of an image by this."""
_PATCH_CELLS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where and at which size all cases run."""

    base_model: str
    """Name of a known base model, whose shape is used."""
    device: torch.device
    dtype: torch.dtype
    """Of frozen weights and inputs; on a CPU fp32, which shows errors that bf16 hides."""
    shrinks: int
    weight_gain: float = TORCH_GAIN
    """Size of the base's weights, as in ``random_model``."""

    @property
    def transformer(self) -> Mapping[str, Any]:
        return KNOWN_MODELS[self.base_model].transformer

    def cells(self, case: Case) -> tuple[int, int]:
        """Height and width of the latents."""
        width_px, height_px = case.size_px
        side_px = LATENT_CELL_PX * self.shrinks
        return height_px // side_px, width_px // side_px

    def image_tokens(self, case: Case) -> int:
        height, width = self.cells(case)
        return (height // _PATCH_CELLS) * (width // _PATCH_CELLS)

    def batch(self, case: Case, dtype: torch.dtype | None = None) -> Batch:
        """The same random samples for every subject; ``dtype``: another type than the setting's.

        Values are rounded to bf16 first, so that all types hold the same.
        """
        draw = torch.Generator(self.device).manual_seed(7)
        height, width = self.cells(case)
        B, config = case.batch, self.transformer
        t5, llama = config["caption_channels"]
        layers = max(config["llama_layers"]) + 1

        def normal(*shape: int) -> torch.Tensor:
            drawn = torch.randn(shape, generator=draw, device=self.device)
            return drawn.bfloat16().to(dtype or self.dtype)

        return Batch(
            noisy_BCHW=normal(B, config["in_channels"], height, width),
            target_BCHW=normal(B, config["out_channels"], height, width).float(),
            sigmas_B=torch.rand(B, generator=draw, device=self.device),
            text=TextEmbeddings(
                normal(B, CAPTION_TOKENS, t5),
                normal(B, layers, CAPTION_TOKENS, llama),
                normal(B, config["text_emb_dim"]),
            ),
        )


def true_setting() -> Setting:
    """HiDream-I1's shape in bf16 on the CUDA device."""
    return Setting(
        base_model=FLAVOURS["full"], device=torch.device("cuda"), dtype=torch.bfloat16, shrinks=1
    )


def tiny_setting() -> Setting:
    """A miniature in fp32 on the CPU, to try the benchmark itself."""
    return Setting(
        base_model=WIDE_NAME,
        device=torch.device("cpu"),
        dtype=torch.float32,
        shrinks=_TINY_SHRINKS,
    )
