"""A few rows times a weight in 8 bits."""

from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.few_rows import few_rows_product_plain, few_rows_product_triton

Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("shape", [(1, 512, 64), (3, 700, 33), (16, 100, 17)])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("product", [few_rows_product_plain, few_rows_product_triton])
def test_it_equals_the_product_in_float64(
    poisoned_memory: None, shape: tuple[int, int, int], dtype: torch.dtype, product: Function
) -> None:
    B, K, N = shape
    draw = torch.Generator().manual_seed(K)
    x_BK = torch.randn(B, K, generator=draw)
    rows8_NK = (20 * torch.randn(N, K, generator=draw)).clamp(-127, 127).to(dtype)
    scale_N = torch.rand(N, generator=draw)

    found = product(x_BK, rows8_NK, scale_N)

    expected = x_BK.double() @ (rows8_NK.double() * scale_N.double()[:, None]).t()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)


def test_bf16_rows_give_bf16(poisoned_memory: None) -> None:
    x_BK = torch.randn(2, 64).bfloat16()
    rows8_NK, scale_N = torch.randint(-127, 127, (8, 64), dtype=torch.int8), torch.rand(8)

    assert few_rows_product_triton(x_BK, rows8_NK, scale_N).dtype is torch.bfloat16
