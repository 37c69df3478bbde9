"""Products of 8-bit rows with one 8-bit weight, whose rows have scales too.

Letters: M rows, K summed width, N width of the output.
"""

import torch
from torch.nn import functional

from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tilings import is_before_hopper, tiling_for
from trainer_core.kernels.triton_support import runs_triton


def dense_product8(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_NK: torch.Tensor,
    scale_N: torch.Tensor | None,
    dtype: torch.dtype,
    bias_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[m] = scale[m] · scale · (weight · rows[m]) + bias, [M, N], without gradients.

    On CUDA a library's product multiplies e4m3 from capability 9.0 on. A kernel of our own does on
    older cards, and for int8 everywhere: there the library is slower than bf16 on Hopper cards.

    Args:
        rows8_MK: e4m3 or int8; K is a multiple of 16.
        scale_M: fp32.
        weight8_NK: in the type of the rows; N is a multiple of 16.
        scale_N: fp32; None: 1.
        dtype: of the result; in 16 bits on CUDA.
        bias_N: in the type of the result; None: 0.
    """
    inputs = (rows8_MK, scale_M, weight8_NK, scale_N, dtype, bias_N)
    if not runs_triton(rows8_MK):
        return dense_product8_plain(*inputs)
    if rows8_MK.dtype is torch.int8 or is_before_hopper(rows8_MK):
        return dense_product8_triton(*inputs)
    return _library_product(*inputs)


def dense_product8_plain(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_NK: torch.Tensor,
    scale_N: torch.Tensor | None,
    dtype: torch.dtype,
    bias_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """``dense_product8`` in PyTorch."""
    wide = torch.promote_types(dtype, torch.float32)
    out = functional.linear(rows8_MK.to(wide), weight8_NK.to(wide)) * scale_M[:, None]
    if scale_N is not None:
        out = out * scale_N
    return (out if bias_N is None else out + bias_N).to(dtype)


def dense_product8_triton(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_NK: torch.Tensor,
    scale_N: torch.Tensor | None,
    dtype: torch.dtype,
    bias_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """``dense_product8`` in one kernel, that of the experts with one of them."""
    out = rows8_MK.new_empty(len(rows8_MK), len(weight8_NK), dtype=dtype)
    multiply_tiles(
        out,
        rows8_MK,
        weight8_NK[None],
        None,
        tiling_for(rows8_MK),
        scale_M=scale_M,
        scale_EN=scale_N,
        bias_EN=bias_N,
    )
    return out


def _library_product(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_NK: torch.Tensor,
    scale_N: torch.Tensor | None,
    dtype: torch.dtype,
    bias_N: torch.Tensor | None,
) -> torch.Tensor:
    ones = torch.ones(len(weight8_NK), device=rows8_MK.device) if scale_N is None else scale_N
    return torch._scaled_mm(
        rows8_MK,
        weight8_NK.t(),
        scale_a=scale_M[:, None],
        scale_b=ones[None],
        bias=bias_N,
        out_dtype=dtype,
        use_fast_accum=True,
    )
