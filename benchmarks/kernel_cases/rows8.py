"""Rows to 8 bits: activations, incoming gradients with the weight's scale, the experts' weights."""

from typing import Any

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs, Quantized
from trainer_core.kernels.rows8 import rows_to_e4m3_triton


def _kernel(x: torch.Tensor, factor_F: torch.Tensor | None) -> list[Quantized]:
    return [Quantized(*rows_to_e4m3_triton(x, factor_F))]


def _plain(x: torch.Tensor, factor_F: torch.Tensor | None) -> list[torch.Tensor]:
    return [x if factor_F is None else x * factor_F]


def _case(rows: int, F: int, *, has_factor: bool) -> Case:
    def make(draw: Draw) -> Inputs:
        factor_F: Any = draw(F, dtype=torch.float32).abs() if has_factor else None
        return draw(rows, F), factor_F

    return Case(
        name="rows to 8 bits, with factor" if has_factor else "rows to 8 bits",
        shape=f"{rows}x{F}",
        make=make,
        kernel=_kernel,
        plain=_plain,
        forward_bytes=rows * F * 3,
    )


CASES = [
    _case(4480, 2560, has_factor=False),
    _case(4480, 7680, has_factor=True),
    _case(4480, 7168, has_factor=True),
    _case(8960, 13824, has_factor=True),
    _case(71680, 160, has_factor=False),
]
