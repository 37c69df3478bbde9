"""Rows sorted by expert, each times the matrix of its expert: one product for all experts.

How many rows an expert has is known to the device alone. The kernel does not read it back. The
products have no gradients of their own. On CUDA those of 16 bits need a card of capability 9.0, of
e4m3 8.9, of int8 8.0.

Letters: M rows, K input width, N output width, E experts.
"""

import torch

from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tilings import tiling_for
from trainer_core.kernels.triton_support import runs_triton


def grouped_product8(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_ENK: torch.Tensor,
    scale_EN: torch.Tensor | None,
    ends_E: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """out[m] = scale[m] · scale[e] · (weight[e] · rows[m]) of 8-bit rows, e the expert of row m.

    Args:
        rows8_MK: e4m3 or int8, sorted by expert; K is a multiple of 16.
        scale_M: fp32.
        weight8_ENK: in the type of the rows; N is a multiple of 8.
        scale_EN: fp32; None: 1.
        ends_E: int32: the row after the last one of each expert. The last end is M.
        dtype: of the result; in 16 bits on CUDA.

    Returns:
        [M, N].
    """
    product = grouped_product8_triton if _is_for_kernel(rows8_MK) else grouped_product8_plain
    return product(rows8_MK, scale_M, weight8_ENK, scale_EN, ends_E, dtype)


def grouped_product8_plain(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_ENK: torch.Tensor,
    scale_EN: torch.Tensor | None,
    ends_E: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``grouped_product8`` in PyTorch."""
    wide = torch.promote_types(dtype, torch.float32)
    sums = grouped_product_plain(rows8_MK.to(wide), weight8_ENK.to(wide), ends_E)
    out = sums * scale_M[:, None]
    if scale_EN is not None:
        rows = [len(part) for part in _parts(rows8_MK, ends_E)]
        out *= scale_EN.repeat_interleave(torch.tensor(rows, device=out.device), dim=0)
    return out.to(dtype)


def grouped_product8_triton(
    rows8_MK: torch.Tensor,
    scale_M: torch.Tensor,
    weight8_ENK: torch.Tensor,
    scale_EN: torch.Tensor | None,
    ends_E: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``grouped_product8`` in one kernel."""
    out = rows8_MK.new_empty(len(rows8_MK), weight8_ENK.shape[1], dtype=dtype)
    multiply_tiles(
        out,
        rows8_MK,
        weight8_ENK,
        ends_E,
        tiling_for(rows8_MK),
        scale_M=scale_M,
        scale_EN=scale_EN,
    )
    return out


def grouped_product(
    rows_MK: torch.Tensor, weight_ENK: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """out[m] = weight[e] · rows[m], [M, N], e the expert of row m.

    Args:
        rows_MK: sorted by expert; K is a multiple of 8.
        weight_ENK: in the type of the rows; N is a multiple of 8.
        ends_E: int32: the row after the last one of each expert. The last end is M.
    """
    product = grouped_product_triton if _is_for_kernel(rows_MK) else grouped_product_plain
    return product(rows_MK, weight_ENK, ends_E)


def grouped_product_plain(
    rows_MK: torch.Tensor, weight_ENK: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """``grouped_product`` in PyTorch."""
    parts = zip(_parts(rows_MK, ends_E), weight_ENK, strict=True)
    return torch.cat([part @ weight.t() for part, weight in parts])


def grouped_product_triton(
    rows_MK: torch.Tensor, weight_ENK: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """``grouped_product`` in one kernel."""
    out = rows_MK.new_empty(len(rows_MK), weight_ENK.shape[1])
    multiply_tiles(out, rows_MK, weight_ENK, ends_E, tiling_for(rows_MK))
    return out


def _is_for_kernel(rows: torch.Tensor) -> bool:
    """Tiles of wider elements do not fit into a card's shared memory."""
    return runs_triton(rows) and rows.element_size() <= 2


def _parts(rows: torch.Tensor, ends_E: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of each expert."""
    return torch.tensor_split(rows, ends_E[:-1].long().cpu())
