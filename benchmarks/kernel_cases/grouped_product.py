"""Products of the experts, in 8 bits with their gradients and in bf16, at 1024² and 512²."""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.grouped_product import (
    grouped_product8_plain,
    grouped_product8_triton,
    grouped_product_plain,
    grouped_product_triton,
)

MAX_ERROR_OF_SUMS_8BIT = 0.03
"""Hopper cards sum 8-bit products in fewer bits than fp32 has: the error grows with K."""

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
    has_scale: bool = True,
    max_error: float = MAX_ERROR_OF_SUMS_8BIT,
) -> Case:
    M, E = sum(sizes), len(sizes)

    def make(draw: Draw) -> Inputs:
        rows8 = draw(M, K, dtype=torch.float8_e4m3fn)
        weight8 = draw(E, N, K, dtype=torch.float8_e4m3fn)
        scale_M = draw(M, dtype=torch.float32).exp()
        scale_EN = draw(E, N, dtype=torch.float32).exp() if has_scale else None
        return rows8, scale_M, weight8, scale_EN, ends_of(sizes, draw.device)

    return Case(
        name="grouped product of 8-bit rows",
        shape=_shape(sizes, K, N),
        make=make,
        kernel=lambda *inputs: [grouped_product8_triton(*inputs, torch.bfloat16)],
        plain=lambda *inputs: [grouped_product8_plain(*inputs, torch.float64)],
        forward_bytes=_moved_bytes(sizes, K, N, 1),
        max_error=max_error,
    )


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
    )


CASES = [
    *(_rows8(sizes, 2560, 13824) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 6912, 2560) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 13824, 2560, has_scale=False) for sizes in (AT_1024, AT_512)),
    *(_rows8(sizes, 2560, 6912, has_scale=False) for sizes in (AT_1024, AT_512)),
    _rows8(SMALL, 272, 144, max_error=0.004),
    _rows8((5, 0, 0, 0), 16, 328, has_scale=False, max_error=0.004),
    *(_rows16(sizes, 2560, 13824) for sizes in (AT_1024, AT_512)),
    *(_rows16(sizes, 6912, 2560) for sizes in (AT_1024, AT_512)),
    _rows16(SMALL, 264, 136),
]
