"""Rows in 8 bits, float8 e4m3, each with a scale of its own."""

from typing import Final

import torch

from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl, warps_for

E4M3_MAX: Final = 448.0
"""The largest number of the type."""
LEAST_MAXIMUM: Final = 1e-12
"""Stands for the maximum of a row of zeros, whose scale must not be 0."""


def rows_to_e4m3(
    x: torch.Tensor, factor_F: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of ``x`` · ``factor_F`` in 8 bits, and their scales. It has no gradient.

    scale = max |x · factor| / 448 of each row, rows8 = x · factor / scale, in fp32. A row that is
    not finite gives NaN in ``rows8``, so no product with it is finite.

    Args:
        x: [..., F], in at most 32 bits; a view if its last dimension is contiguous.
        factor_F: multiplies each row; None: 1.

    Returns:
        rows8 [N, F] in float8_e4m3fn, where N is the number of rows of ``x``, and scale [N] in
        fp32.
    """
    if runs_triton(x):
        return rows_to_e4m3_triton(x, factor_F)
    return rows_to_e4m3_plain(x, factor_F)


def weight_to_e4m3(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a weight [..., N, K] in 8 bits, in its shape, and their scales [..., N].

    The formula of ``rows_to_e4m3``. On CUDA it needs no memory but the results.
    """
    rows8, scale = rows_to_e4m3(weight)
    return rows8.view(weight.shape), scale.view(weight.shape[:-1])


@torch.no_grad()
def rows_to_e4m3_plain(
    x: torch.Tensor, factor_F: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``rows_to_e4m3`` in PyTorch."""
    rows = x.reshape(-1, x.shape[-1]).float()
    if factor_F is not None:
        rows = rows * factor_F.float()
    scale = rows.abs().amax(dim=-1).clamp_min(LEAST_MAXIMUM) / E4M3_MAX
    return (rows / scale[:, None]).to(torch.float8_e4m3fn), scale


@torch.no_grad()
def rows_to_e4m3_triton(
    x: torch.Tensor, factor_F: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``rows_to_e4m3`` in one pass over the rows."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    N, F = rows.shape
    rows8 = torch.empty(N, F, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(N, dtype=torch.float32, device=x.device)
    block = next_power_of_2(F)
    _quantize[(N,)](
        rows,
        None if factor_F is None else factor_F.contiguous(),
        rows8,
        scale,
        rows.stride(0),
        F,
        BLOCK=block,
        num_warps=warps_for(block),
    )
    return rows8, scale


@jit
def e4m3_scale(maximum: tl.tensor) -> tl.tensor:
    """Inside a kernel: the scale of a row whose largest magnitude is ``maximum``."""
    return tl.maximum(maximum, 1e-12) / 448.0


@jit
def _quantize(
    x: tl.tensor,
    factor: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    x_stride: tl.tensor,
    F: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row: reads x and factor, writes rows8 and scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < F
    value = tl.load(x + row * x_stride + columns, inside, other=0.0).to(tl.float32)
    if factor is not None:
        value *= tl.load(factor + columns, inside, other=0.0).to(tl.float32)
    row_scale = e4m3_scale(tl.max(tl.abs(value), 0))
    tl.store(rows8 + row * F + columns, (value / row_scale).to(tl.float8e4nv), inside)
    tl.store(scale + row, row_scale)
