"""Rescaled guidance against diffusers' own formula, in float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import nn

from trainer_core.painting.guidance import RescaledGuidance


class Answers(nn.Module):
    """Gives the same output for any input, as a transformer in the pipeline does."""

    config = SimpleNamespace(in_channels=16)
    max_seq = 64
    device = torch.device("cpu")

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output
        self.dtype = output.dtype

    def forward(self, **_: Any) -> tuple[torch.Tensor]:
        return (self.output,)


def combined(output: torch.Tensor, guidance: float) -> torch.Tensor:
    """As the pipeline does with the transformer's output: its sign is turned first."""
    negative, positive = (-output).chunk(2)
    return negative + guidance * (positive - negative)


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("guidance", [1.5, 5.0, 12.0])
def test_it_guides_as_diffusers_rescales(guidance: float, rescale: float) -> None:
    draw = torch.Generator().manual_seed(11)
    scale = torch.tensor([1.0, 3.0, 0.5, 0.2]).reshape(4, 1, 1, 1)  # two prompts, each with its own
    output = scale * torch.randn(4, 16, 8, 6, generator=draw) + 0.3

    guided = RescaledGuidance(Answers(output), guidance=guidance, rescale=rescale)(x=None)[0]

    exact = combined(output.double(), guidance)
    expected = rescale_noise_cfg(exact, -output.double()[2:], rescale)
    found = combined(guided, guidance)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)
    if rescale == 1.0:
        deviations = found.std(dim=(1, 2, 3)), output[2:].std(dim=(1, 2, 3))
        assert torch.allclose(*deviations, rtol=1e-4)


def test_what_is_constant_stays_as_it_is() -> None:
    output = torch.zeros(2, 16, 4, 4, dtype=torch.bfloat16)

    guided = RescaledGuidance(Answers(output), guidance=5.0, rescale=0.7)(x=None)[0]

    assert guided.dtype == torch.bfloat16
    assert torch.equal(guided, output)
