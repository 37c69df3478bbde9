"""Rows sorted by expert times their expert's matrix: tiles at every edge, scales.

Triton's interpreter multiplies fp32 right, and bf16 wrong. Products of true types are compared on
a card, in tests/gpu.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.rows_in_8_bits import DTYPES
from trainer_core.kernels.grouped_product import (
    grouped_product,
    grouped_product8,
    grouped_product8_plain,
    grouped_product8_triton,
    grouped_product_plain,
    grouped_product_triton,
)
from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tile_order import Tiling

Function = Callable[..., Any]

SIZES = [[5, 0, 17, 40], [0, 0, 0, 3], [16, 33, 1, 0], [100]]
TILINGS = {
    "square": Tiling(16, 16, 16, 2, 1, 4, 3, 1),
    "halves": Tiling(16, 32, 16, 1, 2, 4, 3, 2),
    "large": Tiling(64, 64, 32, 16, 1, 4, 3, 1),
    "loaded": Tiling(16, 32, 16, 2, 1, 4, 3, 2, has_accelerator=False),
}


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def ends_of(sizes: list[int]) -> torch.Tensor:
    return torch.tensor(sizes).cumsum(0).int()


def product(rows: torch.Tensor, weight_ENK: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The right result, in float64."""
    experts = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.einsum("mk,mnk->mn", rows.double(), weight_ENK.double()[experts])


@pytest.mark.each_pair
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("widths", [(48, 32), (36, 40), (16, 100)], ids=str)
@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_every_row_meets_the_matrix_of_its_expert(
    sizes: list[int], widths: tuple[int, int], tiling: Tiling
) -> None:
    N, K = widths
    rows, weight = normal(sum(sizes), K), normal(len(sizes), N, K)
    out = torch.full((len(rows), N), torch.nan)

    multiply_tiles(out, rows, weight, ends_of(sizes), tiling)

    torch.testing.assert_close(out.double(), product(rows, weight, sizes), rtol=0, atol=1e-4)


@pytest.mark.each_pair
@pytest.mark.parametrize("has_row_scale", [False, True])
@pytest.mark.parametrize("has_column_scale", [False, True])
@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_scales_of_rows_and_columns(
    has_row_scale: bool, has_column_scale: bool, tiling: Tiling
) -> None:
    sizes, N, K = [5, 0, 17, 40], 36, 40
    rows, weight = normal(sum(sizes), K), normal(len(sizes), N, K)
    scale_M, scale_EN = normal(len(rows)).exp(), normal(len(sizes), N).exp()
    out = torch.full((len(rows), N), torch.nan)

    multiply_tiles(
        out,
        rows,
        weight,
        ends_of(sizes),
        tiling,
        scale_M=scale_M if has_row_scale else None,
        scale_EN=scale_EN if has_column_scale else None,
    )

    scaled = weight * scale_EN[..., None] if has_column_scale else weight
    wanted = product(rows * scale_M[:, None] if has_row_scale else rows, scaled, sizes)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_rows_from_the_last_end_on_are_left_alone(tiling: Tiling) -> None:
    sizes, N, K = [3, 18], 36, 32
    rows, weight = normal(30, K), normal(2, N, K)
    out = torch.full((30, N), 7.0)

    multiply_tiles(out, rows, weight, ends_of(sizes), tiling)

    assert torch.equal(out[21:], torch.full((9, N), 7.0))
    wanted = product(rows[:21], weight, sizes)
    torch.testing.assert_close(out[:21].double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    "multiply", [grouped_product, grouped_product_plain, grouped_product_triton]
)
def test_the_product(sizes: list[int], multiply: Function) -> None:
    rows, weight = normal(sum(sizes), 32), normal(len(sizes), 48, 32)

    out = multiply(rows, weight, ends_of(sizes))

    torch.testing.assert_close(out.double(), product(rows, weight, sizes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("M", [1, 16, 61])
@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_one_matrix_for_all_rows_and_a_bias(M: int, tiling: Tiling) -> None:
    rows, weight, bias = normal(M, 40), normal(1, 36, 40), normal(1, 36)
    out = torch.full((M, 36), torch.nan)

    multiply_tiles(out, rows, weight, None, tiling, bias_EN=bias)

    wanted = product(rows, weight, [M]) + bias.double()
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_integers_are_summed_exactly(tiling: Tiling) -> None:
    sizes, N, K = [5, 0, 17], 20, 1344  # a sum is above 2 ** 24, where fp32 rounds
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(100, 128, (sum(sizes), K), generator=draw).to(torch.int8)
    weight = torch.randint(-127, -99, (len(sizes), N, K), generator=draw).to(torch.int8)
    out = torch.full((len(rows), N), torch.nan)

    multiply_tiles(out, rows, weight, ends_of(sizes), tiling)

    assert torch.equal(out, product(rows, weight, sizes).float())


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_rows_of_e4m3_in_every_tiling(tiling: Tiling) -> None:
    sizes, N, K = [5, 0, 17, 40], 48, 80
    rows, weight = (
        (20 * normal(*shape)).to(torch.float8_e4m3fn)
        for shape in ((sum(sizes), K), (len(sizes), N, K))
    )
    out = torch.full((len(rows), N), torch.nan)

    multiply_tiles(out, rows, weight, ends_of(sizes), tiling)

    wanted = product(rows, weight, sizes)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=0.1)


@pytest.mark.each_pair
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("has_column_scale", [False, True])
@pytest.mark.parametrize(
    "multiply", [grouped_product8, grouped_product8_plain, grouped_product8_triton]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_product_of_8_bit_rows(
    sizes: list[int], has_column_scale: bool, multiply: Function, dtype: torch.dtype
) -> None:
    rows8 = (20 * normal(sum(sizes), 32)).to(dtype)
    weight8 = (20 * normal(len(sizes), 48, 32)).to(dtype)
    scale_M, scale_EN = normal(len(rows8)).exp(), normal(len(sizes), 48).exp()

    out = multiply(
        rows8,
        scale_M,
        weight8,
        scale_EN if has_column_scale else None,
        ends_of(sizes),
        torch.float32,
    )

    weight = weight8.float()
    if has_column_scale:
        weight = weight * scale_EN[..., None]
    wanted = product(rows8.float() * scale_M[:, None], weight, sizes)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=0.1)


def test_no_rows() -> None:
    ends = torch.zeros(4, dtype=torch.int32)

    out = grouped_product_triton(torch.empty(0, 32), normal(4, 48, 32), ends)

    assert out.shape == (0, 48)
