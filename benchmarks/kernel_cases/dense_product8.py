"""Dense products of 8-bit rows by our kernel, which multiplies int8, and e4m3 on older cards.

q, k and v, the outputs of attention, shared experts, gradients.
"""

from typing import Any

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, capability_of
from benchmarks.kernel_cases.grouped_product import (
    ACCELERATOR_FROM,
    MAX_ERROR_OF_SUMS_E4M3,
    draw_rows8,
)
from trainer_core.kernels.dense_product8 import dense_product8_plain, dense_product8_triton
from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tilings import LOADED8


def _case(
    M: int,
    K: int,
    N: int,
    *,
    has_bias: bool = False,
    has_scale: bool = True,
    dtype: torch.dtype = torch.int8,
    max_error: float = 0.004,
    is_loaded: bool = False,
) -> Case:
    """``is_loaded``: as cards before 9.0 do it."""

    def make(draw: Draw) -> Inputs:
        rows8, weight8 = (draw_rows8(draw, n, K, dtype=dtype) for n in (M, N))
        scale_M, scale_N = (draw(n, dtype=torch.float32).exp() for n in (M, N))
        bias = draw(N, factor=1e3) if has_bias else None
        return rows8, scale_M, weight8, scale_N if has_scale else None, bias

    def used(*inputs: Any) -> list[torch.Tensor]:
        *others, bias = inputs
        return [dense_product8_triton(*others, torch.bfloat16, bias)]

    def loaded(
        rows8: torch.Tensor,
        scale_M: torch.Tensor,
        weight8: torch.Tensor,
        scale_N: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        out = rows8.new_empty(M, N, dtype=torch.bfloat16)
        multiply_tiles(
            *(out, rows8, weight8[None], None, LOADED8),
            scale_M=scale_M,
            scale_EN=scale_N,
            bias_EN=bias,
        )
        return [out]

    def plain(*inputs: Any) -> list[torch.Tensor]:
        *others, bias = inputs
        return [dense_product8_plain(*others, torch.float64, bias)]

    return Case(
        name=f"dense product of {NAMES[dtype]} rows" + ", plain loads" * is_loaded,
        shape=f"{M}x{K} to {N}",
        make=make,
        kernel=loaded if is_loaded else used,
        plain=plain,
        forward_bytes=K * (M + N) + 2 * M * N,
        max_error=max_error,
        capability=capability_of(dtype) if is_loaded else ACCELERATOR_FROM,
    )


CASES = [
    *(_case(M, 2560, 7680, has_bias=True) for M in (4480, 4096, 1280)),
    *(_case(M, 2560, 2560, has_bias=True) for M in (4352, 1280)),
    _case(4352, 2560, 7168),
    _case(4352, 3584, 2560),
    _case(256, 2560, 13824),
    _case(4352, 7680, 2560, has_scale=False),
    _case(4352, 7168, 2560, has_scale=False),
    _case(1, 48, 272, has_bias=True),
    _case(129, 272, 48, has_bias=True),
    _case(1280, 2560, 7680, has_bias=True, is_loaded=True),
    _case(129, 272, 48, has_bias=True, is_loaded=True),
    _case(
        *(1280, 2560, 7680),
        has_bias=True,
        dtype=torch.float8_e4m3fn,
        max_error=MAX_ERROR_OF_SUMS_E4M3,
        is_loaded=True,
    ),
    _case(129, 272, 48, has_bias=True, dtype=torch.float8_e4m3fn, is_loaded=True),
]
