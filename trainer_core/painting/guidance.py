"""Rescaled classifier-free guidance, which keeps strong guidance from raising the contrast.

Source: diffusers' ``rescale_noise_cfg``, after section 3.4 of "Common Diffusion Noise Schedules and
Sample Steps are Flawed" (arXiv 2305.08891). diffusers' pipeline for HiDream has no such argument.
"""

from typing import Any

import torch
from torch import nn


class RescaledGuidance(nn.Module):
    """A transformer whose outputs guide as rescaled ones would.

    The pipeline adds guidance · (positive - negative) to the negative output. Rescaling multiplies
    that sum with one number for each image, so this multiplies both outputs with it beforehand.
    """

    def __init__(self, transformer: Any, *, guidance: float, rescale: float) -> None:
        """
        Args:
            transformer: called by diffusers' pipeline with [2B, C, H, W], the negative half first.
            guidance: above 1, so that the pipeline calls it so.
            rescale: 0 changes nothing; at 1 the guided velocity has the deviation of the positive.
        """
        super().__init__()
        self.transformer = transformer
        self.config = transformer.config
        self.max_seq = transformer.max_seq
        self.dtype = transformer.dtype
        self.device = transformer.device
        self._guidance = guidance
        self._rescale = rescale

    def forward(self, **inputs: Any) -> tuple[torch.Tensor]:
        """[2B, C, H, W], in the type of the transformer's output."""
        output_2BCHW: torch.Tensor = self.transformer(**inputs)[0]
        negative, positive = output_2BCHW.float().chunk(2)
        guided = negative + self._guidance * (positive - negative)
        factor_B111 = rescale_factor(positive, guided, self._rescale)
        both = torch.cat([factor_B111, factor_B111])
        return ((output_2BCHW.float() * both).to(output_2BCHW.dtype),)


def rescale_factor(positive: torch.Tensor, guided: torch.Tensor, rescale: float) -> torch.Tensor:
    """What the guided output [B, …] is multiplied with: [B, 1, …]; 1 where it is constant."""
    within = tuple(range(1, guided.ndim))
    deviation = guided.std(dim=within, keepdim=True)
    ratio = positive.std(dim=within, keepdim=True) / deviation
    return torch.where(deviation > 0, rescale * ratio + (1 - rescale), 1.0)
