"""Dropout of a LoRA's input. The mask itself is tested in ``tests``; here it is taken as drawn."""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.dropout import dropout_triton

_PROBABILITY, _LAYER = 0.1, 7


def _kernel(x: torch.Tensor, seed: torch.Tensor) -> list[torch.Tensor]:
    return [dropout_triton(x, _PROBABILITY, seed, _LAYER)]


def _plain(x: torch.Tensor, seed: torch.Tensor) -> list[torch.Tensor]:
    ones = torch.ones(x.shape, device=x.device)
    is_kept = dropout_triton(ones, _PROBABILITY, seed, _LAYER) != 0
    return [x * is_kept / (1 - _PROBABILITY)]


def _make(draw: Draw) -> Inputs:
    return draw(4480, 2560, has_gradient=True), torch.zeros(
        (), dtype=torch.int64, device=draw.device
    )


CASES = [
    Case(
        name="dropout",
        shape="4480x2560",
        make=_make,
        kernel=_kernel,
        plain=_plain,
        forward_bytes=4480 * 2560 * 4,
        backward_bytes=4480 * 2560 * 4,
    )
]
