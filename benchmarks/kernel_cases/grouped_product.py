"""Products of the experts, in 8 bits with their gradients and in bf16, at 1024² and 512²."""

from typing import Any

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, capability_of
from trainer_core.kernels.grouped_product import (
    grouped_product8_plain,
    grouped_product8_triton,
    grouped_product_plain,
    grouped_product_triton,
)
from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tilings import LOADED8

ACCELERATOR_FROM = 90
"""Cards with a tensor memory accelerator."""

MAX_ERROR_OF_SUMS_E4M3 = 0.03
"""Hopper cards sum e4m3 products in fewer bits than fp32 has: the error grows with K."""

AT_1024 = (3046, 1393, 2698, 1567)
"""Rows of each expert: 2 for each of 4352 tokens."""
AT_512 = (896, 410, 793, 461)
SMALL = (129, 0, 1, 170)


def ends_of(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The row after the last one of each expert."""
    return torch.tensor(sizes, device=device).cumsum(0).int()


def _moved_bytes(sizes: tuple[int, ...], K: int, N: int, element_bytes: int) -> int:
    M, E = sum(sizes), len(sizes)
    return element_bytes * K * (M + E * N) + 2 * M * N


def _shape(sizes: tuple[int, ...], K: int, N: int) -> str:
    return f"{sum(sizes)}x{K} to {N}"


def _rows8(
    sizes: tuple[int, ...],
    K: int,
    N: int,
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    has_scale: bool = True,
    max_error: float = MAX_ERROR_OF_SUMS_E4M3,
    is_loaded: bool = False,
) -> Case:
    """``is_loaded``: as cards before 9.0 do it."""
    M, E = sum(sizes), len(sizes)

    def make(draw: Draw) -> Inputs:
        rows8, weight8 = draw_rows8(draw, M, K, dtype=dtype), draw_rows8(draw, E, N, K, dtype=dtype)
        scale_M = draw(M, dtype=torch.float32).exp()
        scale_EN = draw(E, N, dtype=torch.float32).exp() if has_scale else None
        return rows8, scale_M, weight8, scale_EN, ends_of(sizes, draw.device)

    def loaded(
        rows8: torch.Tensor,
        scale_M: torch.Tensor,
        weight8: torch.Tensor,
        scale_EN: torch.Tensor | None,
        ends: torch.Tensor,
    ) -> list[torch.Tensor]:
        out = rows8.new_empty(M, N, dtype=torch.bfloat16)
        multiply_tiles(out, rows8, weight8, ends, LOADED8, scale_M=scale_M, scale_EN=scale_EN)
        return [out]

    def used(*inputs: Any) -> list[torch.Tensor]:
        return [grouped_product8_triton(*inputs, torch.bfloat16)]

    return Case(
        name=f"grouped product of {NAMES[dtype]} rows" + ", plain loads" * is_loaded,
        shape=_shape(sizes, K, N),
        make=make,
        kernel=loaded if is_loaded else used,
        plain=lambda *inputs: [grouped_product8_plain(*inputs, torch.float64)],
        forward_bytes=_moved_bytes(sizes, K, N, 1),
        max_error=max_error,
        capability=capability_of(dtype) if is_loaded else ACCELERATOR_FROM,
    )


def draw_rows8(draw: Draw, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers that use the range of the type."""
    factor = 30.0 if dtype is torch.int8 else 1.0
    return draw(*shape, factor=factor).clamp(-127, 127).to(dtype)


def _rows16(sizes: tuple[int, ...], K: int, N: int) -> Case:
    M, E = sum(sizes), len(sizes)

    def make(draw: Draw) -> Inputs:
        return draw(M, K), draw(E, N, K), ends_of(sizes, draw.device)

    return Case(
        name="grouped product",
        shape=_shape(sizes, K, N),
        make=make,
        kernel=lambda *inputs: [grouped_product_triton(*inputs)],
        plain=lambda *inputs: [grouped_product_plain(*inputs)],
        forward_bytes=_moved_bytes(sizes, K, N, 2),
        capability=ACCELERATOR_FROM,
    )


CASES = [
    *(_rows8(sizes, 2560, 13824) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 6912, 2560) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 13824, 2560, has_scale=False) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 2560, 6912, has_scale=False) for sizes in (AT_1024, AT_512)),
    *(
        _rows8(sizes, K, N, dtype=torch.int8, has_scale=has_scale, max_error=0.004)
        for sizes in (AT_1024, AT_512)
        for K, N, has_scale in (
            (2560, 13824, True),
            (6912, 2560, True),
            (13824, 2560, False),
            (2560, 6912, False),
        )
    ),
    _rows8(SMALL, 272, 144, dtype=torch.int8, max_error=0.004),
    _rows8(AT_512, 6912, 2560, dtype=torch.int8, max_error=0.004, is_loaded=True),
    _rows8(SMALL, 272, 144, dtype=torch.int8, max_error=0.004, is_loaded=True),
    _rows8(AT_512, 6912, 2560, is_loaded=True),
    _rows8(SMALL, 272, 144, max_error=0.004, is_loaded=True),
    _rows8(SMALL, 272, 144, max_error=0.004),
    _rows8((5, 0, 0, 0), 16, 328, has_scale=False, max_error=0.004),
    *(_rows16(sizes, 2560, 13824) for sizes in (AT_1024, AT_512)),
    *(_rows16(sizes, 6912, 2560) for sizes in (AT_1024, AT_512)),
    _rows16(SMALL, 264, 136),
]
