"""Triton where it is installed. The package can be imported without it."""

from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
    from triton.tools.ragged_tma import create_ragged_descriptor, to_ragged_indices
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # torch for CPUs comes without it

    class _Language:
        """As much of ``triton.language`` as the definition of a kernel needs."""

        constexpr = tensor = int

    triton, tl = None, _Language
    create_ragged_descriptor = to_ragged_indices = TensorDescriptor = None

__all__ = [
    "TensorDescriptor",
    "chunk_of_row",
    "create_ragged_descriptor",
    "jit",
    "next_power_of_2",
    "packed",
    "runs_triton",
    "tl",
    "to_ragged_indices",
    "warps_for",
]


def jit(kernel: Callable[..., Any]) -> Any:
    """``triton.jit``; without triton the function itself, which is then never called."""
    return kernel if triton is None else triton.jit(kernel)


def runs_triton(tensor: torch.Tensor) -> bool:
    """Whether kernels are used for ``tensor``: on CUDA, with triton, and not in float64."""
    return triton is not None and tensor.is_cuda and tensor.dtype is not torch.float64


def next_power_of_2(n: int) -> int:
    """The smallest power of two from ``n`` on: the size of a block that holds n elements."""
    return 1 << max(n - 1, 0).bit_length()


def warps_for(block: int) -> int:
    """Warps of a program that holds one row of ``block`` elements, 32 of them in each thread.

    Measured on an H200 with rows of 2560: half of it and twice of it are slower.
    """
    return min(max(block // 1024, 1), 16)


def chunk_of_row(width: int) -> int:
    """Columns that a program computes at a time: at most eight such chunks make a row.

    A block has a power of two of columns, so one of a whole row would be 8192 for 6912; seven
    chunks are 7168.
    """
    return max(next_power_of_2(-(-width // 8)), 128)


def packed(x: Any) -> Any:
    """The same values with the elements of each row side by side; rows may lie apart. Or None."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()
