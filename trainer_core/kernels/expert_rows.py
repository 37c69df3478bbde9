"""Copies the rows of tokens to their experts, and adds what the experts return.

Gather and combine are each other's gradient. Both read with an index and write each row once, so
there are no atomics: the same input gives the same bits.

Letters: N tokens, K experts chosen for a token, M = N · K rows sorted by expert, F width,
E experts. ``order`` and ``position`` are those of ``expert_order.ExpertOrder``.
"""

from typing import Any

import torch

from trainer_core.kernels.expert_order import ExpertOrder
from trainer_core.kernels.gated_rows import gate_rows_plain, sample_rows
from trainer_core.kernels.rows8 import quantize_rows, rows_to_e4m3_plain
from trainer_core.kernels.triton_support import jit, next_power_of_2, packed, runs_triton, tl


def gather_rows(
    x_NF: torch.Tensor, order: torch.Tensor, choices: int, gate_BF: torch.Tensor | None = None
) -> torch.Tensor:
    """[M, F]: for each sorted row the row of its token, x[order // K], times the gate.

    On CUDA it has no gradient; see ``gather_rows_with_gradient``.

    Args:
        x_NF: one row a token.
        order: [M], int32.
        choices: K.
        gate_BF: multiplies the rows of each sample, as in ``gate_rows``; None: 1.
    """
    if runs_triton(x_NF):
        return gather_rows_triton(x_NF, order, choices, gate_BF)
    return gather_rows_plain(x_NF, order, choices, gate_BF)


def gather_rows_plain(
    x_NF: torch.Tensor, order: torch.Tensor, choices: int, gate_BF: torch.Tensor | None = None
) -> torch.Tensor:
    """``gather_rows`` in PyTorch."""
    gated_NF = x_NF if gate_BF is None else gate_rows_plain(x_NF, gate_BF)
    return gated_NF[order // choices]


def gather_rows_triton(
    x_NF: torch.Tensor, order: torch.Tensor, choices: int, gate_BF: torch.Tensor | None = None
) -> torch.Tensor:
    """``gather_rows`` in one kernel."""
    out_MF = x_NF.new_empty(len(order), x_NF.shape[1])
    _launch_gather(x_NF.contiguous(), order, choices, out_MF, gate_BF=packed(gate_BF))
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
    bytes_MF = bytes_NF.new_empty(len(order), rows8_NF.shape[1])
    scale_M = scale_N.new_empty(len(order))
    _launch_gather(bytes_NF, order, choices, bytes_MF, scales=(scale_N, scale_M))
    return bytes_MF.view(rows8_NF.dtype), scale_M


def _launch_gather(
    x_NF: torch.Tensor,
    order: torch.Tensor,
    choices: int,
    out_MF: torch.Tensor,
    *,
    gate_BF: torch.Tensor | None = None,
    scales: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
) -> None:
    N, F = x_NF.shape
    _gather[(len(order),)](
        x_NF,
        gate_BF,
        scales[0],
        order,
        out_MF,
        scales[1],
        0 if gate_BF is None else gate_BF.stride(0),
        1 if gate_BF is None else sample_rows(N, gate_BF),
        F,
        CHOICES=choices,
        BLOCK=next_power_of_2(F),
    )


@jit
def _gather(
    x: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    order: tl.tensor,
    out: tl.tensor,
    scale_out: tl.tensor,
    gate_stride: tl.tensor,
    rows: tl.tensor,
    F: tl.tensor,
    CHOICES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """out[m] = x[n] · gate[n // rows] with n = order[m] // K, and the same n for the scales."""
    row = tl.program_id(0)
    source = tl.load(order + row) // CHOICES
    column = tl.arange(0, BLOCK)
    value = tl.load(x + source.to(tl.int64) * F + column, column < F)
    if gate is not None:
        gate += (source // rows).to(tl.int64) * gate_stride
        gated = value.to(tl.float32) * tl.load(gate + column, column < F).to(tl.float32)
        value = gated.to(value.dtype)
    tl.store(out + row.to(tl.int64) * F + column, value, column < F)
    if scale is not None:
        tl.store(scale_out + row, tl.load(scale + source))


def gather_rows_to_e4m3(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each sorted row the row of its token times its expert's factor and the gate, in 8 bits.

    It starts the backward pass of the experts: the factors are the row scales of their last weight.

    Args:
        grad_NF: one row a token.
        order: [M], int32.
        expert: [M], int32: the row of ``factor_EF``.
        choices: K.
        factor_EF: fp32.
        gate_BF: multiplies the rows of each sample, as in ``gate_rows``; None: 1.

    Returns:
        Rows [M, F] and scales [M], as in ``rows8``.
    """
    if runs_triton(grad_NF):
        return gather_rows_to_e4m3_triton(grad_NF, order, expert, choices, factor_EF, gate_BF)
    return gather_rows_to_e4m3_plain(grad_NF, order, expert, choices, factor_EF, gate_BF)


def gather_rows_to_e4m3_plain(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_e4m3`` in PyTorch."""
    gated_MF = gather_rows_plain(grad_NF.float(), order, choices, gate_BF)
    return rows_to_e4m3_plain(gated_MF * factor_EF[expert])


def gather_rows_to_e4m3_triton(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_e4m3`` in one kernel."""
    return quantize_rows(grad_NF, factor_EF, gate_BF, order=order, choices=choices, expert=expert)


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
