"""Copies the rows of tokens to their experts, and adds what the experts return.

Gather and combine are each other's gradient. Both read with an index and write each row once, so
there are no atomics: the same input gives the same bits.

Letters: N tokens, K experts chosen for a token, M = N · K rows sorted by expert, F width,
E experts. ``order`` and ``position`` are those of ``expert_order.ExpertOrder``.
"""

from typing import Any

import torch

from trainer_core.kernels.expert_order import ExpertOrder
from trainer_core.kernels.rows8 import e4m3_scale, rows_to_e4m3_plain
from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl, warps_for


def gather_rows(x_NF: torch.Tensor, order: torch.Tensor, choices: int) -> torch.Tensor:
    """[M, F]: for each sorted row the row of its token, x[order // K].

    On CUDA it has no gradient; see ``gather_rows_with_gradient``.

    Args:
        x_NF: one row a token.
        order: [M], int32.
        choices: K.
    """
    if runs_triton(x_NF):
        return gather_rows_triton(x_NF, order, choices)
    return gather_rows_plain(x_NF, order, choices)


def gather_rows_plain(x_NF: torch.Tensor, order: torch.Tensor, choices: int) -> torch.Tensor:
    """``gather_rows`` in PyTorch."""
    return x_NF[order // choices]


def gather_rows_triton(x_NF: torch.Tensor, order: torch.Tensor, choices: int) -> torch.Tensor:
    """``gather_rows`` in one kernel."""
    x_NF = x_NF.contiguous()
    F = x_NF.shape[1]
    out_MF = x_NF.new_empty(len(order), F)
    _gather[(len(order),)](
        x_NF, None, order, out_MF, None, F, CHOICES=choices, BLOCK=next_power_of_2(F)
    )
    return out_MF


def gather_rows8(
    rows8_NF: torch.Tensor, scale_N: torch.Tensor, order: torch.Tensor, choices: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows`` of rows in 8 bits: the rows [M, F] and their scales [M]."""
    if runs_triton(rows8_NF):
        return gather_rows8_triton(rows8_NF, scale_N, order, choices)
    return gather_rows8_plain(rows8_NF, scale_N, order, choices)


def gather_rows8_plain(
    rows8_NF: torch.Tensor, scale_N: torch.Tensor, order: torch.Tensor, choices: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows8`` in PyTorch."""
    source = order // choices
    rows8_MF = rows8_NF.view(torch.uint8)[source]
    return rows8_MF.view(rows8_NF.dtype), scale_N[source]


def gather_rows8_triton(
    rows8_NF: torch.Tensor, scale_N: torch.Tensor, order: torch.Tensor, choices: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows8`` in one kernel."""
    bytes_NF = rows8_NF.contiguous().view(torch.uint8)
    M, F = len(order), rows8_NF.shape[1]
    bytes_MF, scale_M = bytes_NF.new_empty(M, F), scale_N.new_empty(M)
    _gather[(M,)](
        bytes_NF, scale_N, order, bytes_MF, scale_M, F, CHOICES=choices, BLOCK=next_power_of_2(F)
    )
    return bytes_MF.view(rows8_NF.dtype), scale_M


@jit
def _gather(
    x: tl.tensor,
    scale: tl.tensor,
    order: tl.tensor,
    out: tl.tensor,
    scale_out: tl.tensor,
    F: tl.tensor,
    CHOICES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """out[m] = x[order[m] // K], and the same for the scales."""
    row = tl.program_id(0).to(tl.int64)
    source = (tl.load(order + row) // CHOICES).to(tl.int64)
    column = tl.arange(0, BLOCK)
    values = tl.load(x + source * F + column, column < F)
    tl.store(out + row * F + column, values, column < F)
    if scale is not None:
        tl.store(scale_out + row, tl.load(scale + source))


def gather_rows_to_e4m3(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each sorted row the row of its token times its expert's factor, in 8 bits.

    It starts the backward pass of the experts: the factors are the row scales of their last weight.

    Args:
        grad_NF: one row a token.
        order: [M], int32.
        expert: [M], int32: the row of ``factor_EF``.
        choices: K.
        factor_EF: fp32.

    Returns:
        Rows [M, F] and scales [M], as in ``rows8``.
    """
    if runs_triton(grad_NF):
        return gather_rows_to_e4m3_triton(grad_NF, order, expert, choices, factor_EF)
    return gather_rows_to_e4m3_plain(grad_NF, order, expert, choices, factor_EF)


def gather_rows_to_e4m3_plain(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_e4m3`` in PyTorch."""
    return rows_to_e4m3_plain(grad_NF[order // choices] * factor_EF[expert])


def gather_rows_to_e4m3_triton(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_e4m3`` in one kernel."""
    grad_NF = grad_NF.contiguous()
    M, F = len(order), grad_NF.shape[1]
    rows8_MF = grad_NF.new_empty(M, F, dtype=torch.float8_e4m3fn)
    scale_M = grad_NF.new_empty(M, dtype=torch.float32)
    block = next_power_of_2(F)
    _gather_to_e4m3[(M,)](
        grad_NF,
        factor_EF.contiguous(),
        order,
        expert,
        rows8_MF,
        scale_M,
        F,
        CHOICES=choices,
        BLOCK=block,
        num_warps=warps_for(block),
    )
    return rows8_MF, scale_M


@jit
def _gather_to_e4m3(
    grad: tl.tensor,
    factor: tl.tensor,
    order: tl.tensor,
    expert: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    F: tl.tensor,
    CHOICES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """rows8[m] = grad[order[m] // K] · factor[expert[m]] / scale[m]."""
    row = tl.program_id(0).to(tl.int64)
    source = (tl.load(order + row) // CHOICES).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.load(grad + source * F + column, column < F, other=0.0).to(tl.float32)
    factor_row = factor + tl.load(expert + row).to(tl.int64) * F
    value *= tl.load(factor_row + column, column < F, other=0.0)
    row_scale = e4m3_scale(tl.max(tl.abs(value), 0))
    tl.store(rows8 + row * F + column, (value / row_scale).to(tl.float8e4nv), column < F)
    tl.store(scale + row, row_scale)


def combine_rows(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """[N, F]: for each token the sum of its sorted rows, Σ_k sorted[position[n · K + k]].

    Sums are at least fp32. On CUDA it has no gradient; see ``combine_rows_with_gradient``.

    Args:
        sorted_MF: rows sorted by expert.
        position: [M], int32.
        choices: K.
        extra_NF: added to the sum: the output of the shared expert.
    """
    if runs_triton(sorted_MF):
        return combine_rows_triton(sorted_MF, position, choices, extra_NF)
    return combine_rows_plain(sorted_MF, position, choices, extra_NF)


def combine_rows_plain(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows`` in PyTorch."""
    wide = torch.promote_types(sorted_MF.dtype, torch.float32)
    sorted_NKF = sorted_MF[position].view(-1, choices, sorted_MF.shape[1])
    sum_NF = sorted_NKF.sum(1, dtype=wide)
    if extra_NF is not None:
        sum_NF = sum_NF + extra_NF
    return sum_NF.to(sorted_MF.dtype)


def combine_rows_triton(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows`` in one kernel."""
    sorted_MF = sorted_MF.contiguous()
    extra_NF = None if extra_NF is None else extra_NF.contiguous()
    N, F = len(position) // choices, sorted_MF.shape[1]
    out_NF = sorted_MF.new_empty(N, F)
    _combine[(N,)](
        sorted_MF, position, extra_NF, out_NF, F, CHOICES=choices, BLOCK=next_power_of_2(F)
    )
    return out_NF


@jit
def _combine(
    rows: tl.tensor,
    position: tl.tensor,
    extra: tl.tensor,
    out: tl.tensor,
    F: tl.tensor,
    CHOICES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """out[n] = Σ_k rows[position[n · K + k]] + extra[n], summed in fp32."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(CHOICES):
        row = tl.load(position + token * CHOICES + k).to(tl.int64)
        total += tl.load(rows + row * F + column, column < F, other=0.0).to(tl.float32)
    if extra is not None:
        total += tl.load(extra + token * F + column, column < F, other=0.0).to(tl.float32)
    tl.store(out + token * F + column, total.to(out.dtype.element_ty), column < F)


def gather_rows_with_gradient(x_NF: torch.Tensor, order: ExpertOrder, choices: int) -> torch.Tensor:
    """``gather_rows``; its gradient is ``combine_rows``."""
    if runs_triton(x_NF):
        return gather_rows_with_gradient_triton(x_NF, order, choices)
    return gather_rows_plain(x_NF, order.order, choices)


def gather_rows_with_gradient_triton(
    x_NF: torch.Tensor, order: ExpertOrder, choices: int
) -> torch.Tensor:
    """``gather_rows_with_gradient`` in one kernel, and another one for the gradient."""
    gathered: torch.Tensor = _GatherRows.apply(x_NF, order, choices)  # type: ignore[no-untyped-call]
    return gathered


def combine_rows_with_gradient(
    sorted_MF: torch.Tensor,
    order: ExpertOrder,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows``; its gradient is ``gather_rows``, and that of ``extra_NF`` is unchanged."""
    if runs_triton(sorted_MF):
        return combine_rows_with_gradient_triton(sorted_MF, order, choices, extra_NF)
    return combine_rows_plain(sorted_MF, order.position, choices, extra_NF)


def combine_rows_with_gradient_triton(
    sorted_MF: torch.Tensor,
    order: ExpertOrder,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows_with_gradient`` in one kernel, and another one for the gradient."""
    combined: torch.Tensor = _CombineRows.apply(sorted_MF, order, choices, extra_NF)  # type: ignore[no-untyped-call]
    return combined


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NF: torch.Tensor, order: ExpertOrder, choices: int) -> torch.Tensor:
        ctx.save_for_backward(order.position)
        ctx.choices = choices
        return gather_rows_triton(x_NF, order.order, choices)

    @staticmethod
    def backward(ctx: Any, grad_MF: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (position,) = ctx.saved_tensors
        return combine_rows_triton(grad_MF, position, ctx.choices), None, None


class _CombineRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sorted_MF: torch.Tensor,
        order: ExpertOrder,
        choices: int,
        extra_NF: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(order.order)
        ctx.choices, ctx.has_extra = choices, extra_NF is not None
        return combine_rows_triton(sorted_MF, order.position, choices, extra_NF)

    @staticmethod
    def backward(
        ctx: Any, grad_NF: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, torch.Tensor | None]:
        (order,) = ctx.saved_tensors
        grad_MF = gather_rows_triton(grad_NF, order, ctx.choices)
        return grad_MF, None, None, grad_NF if ctx.has_extra else None
