"""Products of 8-bit rows with one weight, against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.rows_in_8_bits import DTYPES
from trainer_core.kernels.dense_product8 import (
    dense_product8,
    dense_product8_plain,
    dense_product8_triton,
)


@pytest.mark.each_pair
@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
@pytest.mark.parametrize("has_scale", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("M", [1, 130])
@pytest.mark.parametrize("multiply", [dense_product8, dense_product8_plain, dense_product8_triton])
@pytest.mark.usefixtures("poisoned_memory")
def test_scales_and_bias(
    multiply: Callable[..., Any], M: int, has_bias: bool, has_scale: bool, dtype8: torch.dtype
) -> None:
    N, K = 272, 48
    draw = torch.Generator().manual_seed(M)
    rows8 = (30 * torch.randn(M, K, generator=draw)).to(dtype8)
    weight8 = (30 * torch.randn(N, K, generator=draw)).to(dtype8)
    scale_M, scale_N = (torch.randn(n, generator=draw).exp() for n in (M, N))
    bias = 1000 * torch.randn(N, generator=draw)

    out = multiply(
        rows8,
        scale_M,
        weight8,
        scale_N if has_scale else None,
        torch.float32,
        bias if has_bias else None,
    )

    wanted = rows8.double() @ weight8.double().T * scale_M.double()[:, None]
    wanted = wanted * scale_N.double() if has_scale else wanted
    wanted = wanted + bias.double() if has_bias else wanted
    assert out.shape == (M, N)
    assert out.dtype == torch.float32
    assert (out.double() - wanted).norm() < 1e-5 * wanted.norm()
