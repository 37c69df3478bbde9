"""Weights in 8 bits, transposed for the gradient: experts, q/k/v, one attention linear."""

import math

import torch

from benchmarks.kernel_cases.case import Case
from trainer_core.kernels.transpose8 import transposed_rows8_plain, transposed_rows8_triton


def _case(*shape: int) -> Case:
    return Case(
        name="transpose 8-bit rows",
        shape="x".join(map(str, shape)),
        make=lambda draw: (draw(*shape, dtype=torch.float8_e4m3fn),),
        kernel=lambda w8: [transposed_rows8_triton(w8)],
        plain=lambda w8: [transposed_rows8_plain(w8)],
        forward_bytes=2 * math.prod(shape),
        max_error=1e-12,
    )


CASES = [
    _case(4, 13824, 2560),
    _case(4, 2560, 6912),
    _case(7680, 2560),
    _case(2560, 2560),
    _case(3, 144, 272),
]
