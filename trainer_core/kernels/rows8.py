"""Rows in 8 bits, e4m3 or int8, each with a scale of its own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch

from trainer_core.kernels.gated_rows import gate_rows_plain, sample_rows
from trainer_core.kernels.triton_support import chunk_of_row, jit, packed, runs_triton, tl

LARGEST: Final[Mapping[torch.dtype, float]] = MappingProxyType(
    {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
)
"""The largest number of each type. -128 is not used, so that both signs round alike."""
LEAST_MAXIMUM: Final = 1e-12
"""Stands for the maximum of a row of zeros, whose scale must not be 0."""


def rows_to_8_bits(
    x: torch.Tensor,
    factor_F: torch.Tensor | None = None,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of ``x`` · ``factor_F`` · ``gate_BF`` in 8 bits, and their scales. No gradient.

    With value = x · factor · gate, scale = max |value| / the largest number of the type for each
    row, rows8 = value / scale, in fp32, rounded to nearest, half to even. The scale of a row that
    is not finite is not finite, so no product with it is.

    Args:
        x: [..., F], in at most 32 bits; a view if its last dimension is contiguous.
        factor_F: multiplies each row; None: 1.
        gate_BF: multiplies the rows of each sample, which are N / B side by side; may be a view.
            None: 1.
        dtype: float8_e4m3fn or int8.

    Returns:
        rows8 [N, F], where N is the number of rows of ``x``, and scale [N] in fp32.
    """
    if runs_triton(x):
        return rows_to_8_bits_triton(x, factor_F, gate_BF, dtype=dtype)
    return rows_to_8_bits_plain(x, factor_F, gate_BF, dtype=dtype)


def weight_to_8_bits(
    weight: torch.Tensor, *, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a weight [..., N, K] in 8 bits, in its shape, and their scales [..., N].

    The formula of ``rows_to_8_bits``. On CUDA it needs no memory but the results.
    """
    rows8, scale = rows_to_8_bits(weight, dtype=dtype)
    return rows8.view(weight.shape), scale.view(weight.shape[:-1])


@torch.no_grad()
def rows_to_8_bits_plain(
    x: torch.Tensor,
    factor_F: torch.Tensor | None = None,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``rows_to_8_bits`` in PyTorch."""
    rows = x.reshape(-1, x.shape[-1]).float()
    if factor_F is not None:
        rows = rows * factor_F.float()
    if gate_BF is not None:
        rows = gate_rows_plain(rows, gate_BF)
    scale = rows.abs().amax(dim=-1).clamp_min(LEAST_MAXIMUM) / LARGEST[dtype]
    wide = rows / scale[:, None]
    return (wide.round() if dtype is torch.int8 else wide).to(dtype), scale


@torch.no_grad()
def rows_to_8_bits_triton(
    x: torch.Tensor,
    factor_F: torch.Tensor | None = None,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``rows_to_8_bits`` in one pass over the rows."""
    return quantize_rows(x.reshape(-1, x.shape[-1]), factor_F, gate_BF, dtype=dtype)


def quantize_rows(
    x_NF: torch.Tensor,
    factor: torch.Tensor | None,
    gate_BF: torch.Tensor | None,
    *,
    dtype: torch.dtype,
    order: torch.Tensor | None = None,
    choices: int = 1,
    expert: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel of ``rows_to_8_bits``, and of ``gather_rows_to_8_bits``, which gives an order.

    Args:
        x_NF: rows to read.
        factor: [F], or [E, F] with ``expert``.
        gate_BF: the gate of each sample.
        dtype: of the result.
        order: [M]: row m is made of row order[m] // choices; None: of row m.
        choices: K.
        expert: [M]: the row of ``factor``.
    """
    x_NF = packed(x_NF)
    N, F = x_NF.shape
    M = N if order is None else len(order)
    gate_BF = packed(gate_BF)
    rows8 = torch.empty(M, F, dtype=dtype, device=x_NF.device)
    scale = torch.empty(M, dtype=torch.float32, device=x_NF.device)
    chunk = chunk_of_row(F)
    quantize_row[(M,)](
        x_NF,
        None if factor is None else factor.contiguous(),
        gate_BF,
        order,
        expert,
        rows8,
        scale,
        x_NF.stride(0),
        0 if gate_BF is None else gate_BF.stride(0),
        1 if gate_BF is None else sample_rows(N, gate_BF),
        F=F,
        CHOICES=choices,
        CHUNK=chunk,
        # Eight columns a thread: its loads are as wide as they can be.
        num_warps=max(chunk // 256, 1),
    )
    return rows8, scale


@jit
def scale8(maximum: tl.tensor, rows8: tl.tensor) -> tl.tensor:
    """Inside a kernel: the scale of a row with this largest magnitude, in the type of ``rows8``."""
    largest: tl.constexpr = 127.0 if rows8.dtype.element_ty == tl.int8 else 448.0
    return tl.maximum(maximum, 1e-12, propagate_nan=tl.PropagateNan.ALL) / largest


@jit
def largest_magnitude(magnitudes: tl.tensor) -> tl.tensor:
    """Inside a kernel: the maximum of a vector, infinite where an element is not a number."""
    return tl.max(tl.where(magnitudes <= float("inf"), magnitudes, float("inf")), 0)


@jit
def larger(one: tl.tensor, other: tl.tensor) -> tl.tensor:
    """Inside a kernel: the maximum; what is not a number stays so."""
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@jit
def rounded8(value: tl.tensor, rows8: tl.tensor) -> tl.tensor:
    """Inside a kernel: ``value`` in the type of ``rows8``, to nearest, half to even."""
    if rows8.dtype.element_ty == tl.int8:
        # The last 8 bits of 1.5 · 2²³ + n are those of the integer n: the sum rounds to it.
        value8 = (value + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    else:
        value8 = value.to(tl.float8e4nv)
    return value8


@jit
def quantize_row(
    x: tl.tensor,
    factor: tl.tensor,
    gate: tl.tensor,
    order: tl.tensor,
    expert: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    x_stride: tl.tensor,
    gate_stride: tl.tensor,
    rows: tl.tensor,
    F: tl.constexpr,
    CHOICES: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """rows8[m] = x[n] · factor[e] · gate[n // rows] / scale[m], one program a row m.

    n is m, or order[m] // K; e is 0, or expert[m]. The row is read once and kept in registers.
    """
    row = tl.program_id(0)
    source = row
    if order is not None:
        source = tl.load(order + row) // CHOICES
    if expert is not None:
        factor += tl.load(expert + row).to(tl.int64) * F
    if gate is not None:
        gate += (source // rows).to(tl.int64) * gate_stride
    x += source.to(tl.int64) * x_stride
    kept: tl.tuple = ()
    largest = tl.zeros((CHUNK,), tl.float32)
    for start in tl.static_range(0, F, CHUNK):
        column = start + tl.arange(0, CHUNK)
        inside = column < F
        # Past the first-level cache, which is left to what rows share.
        value = tl.load(x + column, inside, other=0.0, cache_modifier=".cg").to(tl.float32)
        if factor is not None:
            value *= tl.load(factor + column, inside, other=0.0).to(tl.float32)
        if gate is not None:
            value *= tl.load(gate + column, inside, other=0.0).to(tl.float32)
        largest = larger(largest, tl.abs(value))
        kept += (value,)
    row_scale = scale8(largest_magnitude(largest), rows8)
    inverse = 1.0 / row_scale  # one division a row
    tl.store(scale + row, row_scale)
    rows8 += row.to(tl.int64) * F
    for start in tl.static_range(0, F, CHUNK):
        column = start + tl.arange(0, CHUNK)
        value8 = rounded8(kept[start // CHUNK] * inverse, rows8)
        tl.store(rows8 + column, value8, column < F)
