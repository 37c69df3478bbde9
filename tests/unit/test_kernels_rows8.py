"""Rows in 8 bits: every row keeps its values, whatever its scale."""

from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.rows8 import (
    E4M3_MAX,
    rows_to_e4m3,
    rows_to_e4m3_plain,
    rows_to_e4m3_triton,
    weight_to_e4m3,
)

Quantize = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BOTH: list[Quantize] = [rows_to_e4m3_plain, rows_to_e4m3_triton]
ROUNDING = 0.035
"""Bound of the relative L2 error of a row in e4m3: 0.026 for a long row, more for a short one."""


def spread_rows(N: int, F: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows whose magnitudes differ by many powers of two."""
    generator = torch.Generator().manual_seed(F)
    return (torch.randn(N, F, generator=generator) * torch.logspace(-9, 9, N)[:, None]).to(dtype)


def exact_rows(N: int, F: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of e4m3 numbers and scales that are powers of two: their product needs no rounding.

    Triton's interpreter loses the carry where it rounds to e4m3. Rounding is tested on a GPU.
    """
    generator = torch.Generator().manual_seed(F)
    bytes_NF = torch.randint(8, 127, (N, F), generator=generator)  # normal numbers up to 448
    bytes_NF[:, F // 3] = 126
    negative_NF = torch.rand(N, F, generator=generator) < 0.5
    rows8 = (bytes_NF + 128 * negative_NF).to(torch.uint8).view(torch.float8_e4m3fn)
    return rows8, torch.arange(N).sub(N // 2).mul(4.0).exp2()


def error(rows8: torch.Tensor, scale: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative L2 error of a row."""
    off = rows8.double() * scale.double()[:, None] - wanted.double()
    return float((off.norm(dim=1) / wanted.double().norm(dim=1)).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", [16, 101, 2560])
def test_every_row_keeps_its_values(F: int, dtype: torch.dtype) -> None:
    x = spread_rows(7, F, dtype)

    rows8, scale = rows_to_e4m3(x)

    assert rows8.dtype == torch.float8_e4m3fn
    assert error(rows8, scale, x) < ROUNDING
    assert torch.equal(rows8.float().abs().amax(1), torch.full((7,), E4M3_MAX))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", [16, 101, 2560])
@pytest.mark.parametrize("has_factor", [False, True])
def test_the_kernel_stores_the_rows(F: int, has_factor: bool, dtype: torch.dtype) -> None:
    wanted8, wanted_scale = exact_rows(7, F)
    factor = torch.arange(F).remainder(5).sub(2).exp2() if has_factor else None
    x = wanted8.float() * wanted_scale[:, None] / (1 if factor is None else factor)

    rows8, scale = rows_to_e4m3_triton(x.to(dtype), factor)

    assert torch.equal(scale, wanted_scale)
    assert torch.equal(rows8.view(torch.uint8), wanted8.view(torch.uint8))


@pytest.mark.parametrize("quantize", [rows_to_e4m3, *BOTH])
@pytest.mark.parametrize("has_factor", [False, True])
def test_each_sample_has_its_gate(has_factor: bool, quantize: Quantize) -> None:
    wanted8, wanted_scale = exact_rows(6, 101)
    wide = torch.arange(3 * 203).remainder(7).sub(3).exp2().view(3, 203)
    gate = wide[:, ::2][:, :101]
    factor = torch.arange(101).remainder(5).sub(2).exp2() if has_factor else None
    x = wanted8.float() * wanted_scale[:, None] / (1 if factor is None else factor)
    x = x.view(3, 2, 101) / gate[:, None]

    rows8, scale = quantize(x, factor, gate)

    assert torch.equal(scale, wanted_scale)
    assert torch.equal(rows8.view(torch.uint8), wanted8.view(torch.uint8))


@pytest.mark.parametrize("quantize", BOTH)
def test_rows_may_lie_apart(quantize: Quantize) -> None:
    wide = spread_rows(6, 96, torch.float32).view(2, 3, 96)
    part = wide[..., 32:64]

    rows8, scale = quantize(part)
    whole8, whole_scale = quantize(part.contiguous())

    assert rows8.shape == (6, 32)
    assert torch.equal(rows8.view(torch.uint8), whole8.view(torch.uint8))
    assert torch.equal(scale, whole_scale)
    turned8, _ = quantize(wide[0].T.contiguous().T)
    assert torch.equal(turned8.view(torch.uint8), quantize(wide[0])[0].view(torch.uint8))


@pytest.mark.parametrize("quantize", BOTH)
def test_zeros_stay_zero_and_an_infinity_shows(quantize: Quantize) -> None:
    x = torch.ones(3, 8)
    x[0] = 0
    x[1, 3] = torch.inf

    rows8, scale = quantize(x)
    value = rows8.float() * scale[:, None]

    assert torch.equal(value[0], torch.zeros(8))
    assert value[1].isnan().any()
    assert torch.equal(value[2], torch.ones(8))


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.ones(1, 8)
    x[0, 3] = torch.nan

    rows8, _ = rows_to_e4m3_plain(x)

    assert rows8.float()[0, 3].isnan()


def test_a_weight_keeps_its_shape() -> None:
    weight = spread_rows(12, 40, torch.bfloat16).view(3, 4, 40)

    weight8, scale = weight_to_e4m3(weight)

    assert weight8.shape == (3, 4, 40)
    assert scale.shape == (3, 4)
    assert error(weight8.view(12, 40), scale.view(12), weight.view(12, 40)) < ROUNDING
