"""Elements of one byte, with their last two dimensions exchanged."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer_core.kernels.transpose8 import (
    transposed_rows8,
    transposed_rows8_plain,
    transposed_rows8_triton,
)

Function = Callable[..., Any]


@pytest.mark.parametrize("shape", [(16, 16), (144, 272), (3, 48, 128), (2, 2, 5, 7), (1, 300)])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize(
    "transposed", [transposed_rows8, transposed_rows8_plain, transposed_rows8_triton]
)
def test_every_byte_moves(shape: tuple[int, ...], dtype: torch.dtype, transposed: Function) -> None:
    generator = torch.Generator().manual_seed(shape[-1])
    every_byte = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)

    turned = transposed(every_byte.view(dtype))

    assert turned.dtype == dtype
    assert turned.is_contiguous()
    assert torch.equal(turned.view(torch.uint8), every_byte.transpose(-2, -1))
