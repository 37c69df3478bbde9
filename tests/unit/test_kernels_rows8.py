"""Rows in 8 bits: every row keeps its values, whatever its scale."""

from collections.abc import Callable

import pytest
import torch

from tests.support.rows_in_8_bits import DTYPES, assert_near
from trainer_core.kernels.rows8 import (
    rows_to_8_bits,
    rows_to_8_bits_plain,
    rows_to_8_bits_triton,
    weight_to_8_bits,
)

Quantize = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BOTH: list[Quantize] = [rows_to_8_bits_plain, rows_to_8_bits_triton]


def spread_rows(N: int, F: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows whose magnitudes differ by many powers of two."""
    generator = torch.Generator().manual_seed(F)
    return (torch.randn(N, F, generator=generator) * torch.logspace(-9, 9, N)[:, None]).to(dtype)


def exact_rows(N: int, F: int, dtype8: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of numbers of the type and scales that are powers of two: they need no rounding.

    Triton's interpreter loses the carry where it rounds to e4m3. Rounding is tested on a GPU.
    """
    generator = torch.Generator().manual_seed(F)
    if dtype8 is torch.int8:
        rows8 = torch.randint(-127, 128, (N, F), generator=generator).to(torch.int8)
        rows8[:, F // 3] = -127
    else:
        bytes_NF = torch.randint(8, 127, (N, F), generator=generator)  # normal numbers up to 448
        bytes_NF[:, F // 3] = 126
        negative_NF = torch.rand(N, F, generator=generator) < 0.5
        rows8 = (bytes_NF + 128 * negative_NF).to(torch.uint8).view(torch.float8_e4m3fn)
    return rows8, torch.arange(N).sub(N // 2).mul(4.0).exp2()


@pytest.mark.each_pair
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", [16, 101, 2560])
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_every_row_keeps_its_values(F: int, dtype: torch.dtype, dtype8: torch.dtype) -> None:
    x = spread_rows(7, F, dtype)

    rows8, scale = rows_to_8_bits(x, dtype=dtype8)

    assert rows8.dtype == dtype8
    assert_near(rows8, scale, x)


@pytest.mark.parametrize("F", [16, 101, 2560])
@pytest.mark.parametrize("quantize", BOTH)
def test_integers_are_rounded_half_to_even(quantize: Quantize, F: int) -> None:
    halves = torch.arange(-253, 254) / 2
    x = halves[torch.randint(len(halves), (5, F), generator=torch.Generator().manual_seed(F))]
    x[:, F // 2] = 127

    rows8, scale = quantize(x, dtype=torch.int8)

    assert torch.equal(scale, torch.ones(5))
    assert torch.equal(rows8.float(), x.round())


@pytest.mark.each_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", [16, 101, 2560])
@pytest.mark.parametrize("has_factor", [False, True])
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_the_kernel_stores_the_rows(
    F: int, has_factor: bool, dtype: torch.dtype, dtype8: torch.dtype
) -> None:
    wanted8, wanted_scale = exact_rows(7, F, dtype8)
    factor = torch.arange(F).remainder(5).sub(2).exp2() if has_factor else None
    x = wanted8.float() * wanted_scale[:, None] / (1 if factor is None else factor)

    rows8, scale = rows_to_8_bits_triton(x.to(dtype), factor, dtype=dtype8)

    assert torch.equal(scale, wanted_scale)
    assert torch.equal(rows8.view(torch.uint8), wanted8.view(torch.uint8))


@pytest.mark.parametrize("quantize", [rows_to_8_bits, *BOTH])
@pytest.mark.parametrize("has_factor", [False, True])
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_each_sample_has_its_gate(
    has_factor: bool, quantize: Quantize, dtype8: torch.dtype
) -> None:
    wanted8, wanted_scale = exact_rows(6, 101, dtype8)
    wide = torch.arange(3 * 203).remainder(7).sub(3).exp2().view(3, 203)
    gate = wide[:, ::2][:, :101]
    factor = torch.arange(101).remainder(5).sub(2).exp2() if has_factor else None
    x = wanted8.float() * wanted_scale[:, None] / (1 if factor is None else factor)
    x = x.view(3, 2, 101) / gate[:, None]

    rows8, scale = quantize(x, factor, gate, dtype=dtype8)

    assert torch.equal(scale, wanted_scale)
    assert torch.equal(rows8.view(torch.uint8), wanted8.view(torch.uint8))


@pytest.mark.parametrize("quantize", BOTH)
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_rows_may_lie_apart(quantize: Quantize, dtype8: torch.dtype) -> None:
    wide = spread_rows(6, 96, torch.float32).view(2, 3, 96)
    part = wide[..., 32:64]

    rows8, scale = quantize(part, dtype=dtype8)
    whole8, whole_scale = quantize(part.contiguous(), dtype=dtype8)

    assert rows8.shape == (6, 32)
    assert torch.equal(rows8.view(torch.uint8), whole8.view(torch.uint8))
    assert torch.equal(scale, whole_scale)
    turned8, _ = quantize(wide[0].T.contiguous().T, dtype=dtype8)
    straight8, _ = quantize(wide[0], dtype=dtype8)
    assert torch.equal(turned8.view(torch.uint8), straight8.view(torch.uint8))


@pytest.mark.parametrize("quantize", BOTH)
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_zeros_stay_zero(quantize: Quantize, dtype8: torch.dtype) -> None:
    rows8, scale = quantize(torch.zeros(2, 8), dtype=dtype8)

    assert torch.equal(rows8.float() * scale[:, None], torch.zeros(2, 8))


@pytest.mark.parametrize("quantize", BOTH)
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
def test_what_is_not_finite_is_so_in_every_product(
    odd: float, quantize: Quantize, dtype8: torch.dtype
) -> None:
    x = torch.ones(3, 8)
    x[1, 3] = odd

    rows8, scale = quantize(x, dtype=dtype8)

    sums = rows8.float().sum(1) * scale
    assert sums.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_a_weight_keeps_its_shape(dtype8: torch.dtype) -> None:
    weight = spread_rows(12, 40, torch.bfloat16).view(3, 4, 40)

    weight8, scale = weight_to_8_bits(weight, dtype=dtype8)

    assert weight8.shape == (3, 4, 40)
    assert scale.shape == (3, 4)
    assert_near(weight8.view(12, 40), scale.view(12), weight.view(12, 40))
