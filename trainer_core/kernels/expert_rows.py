"""Copies the rows of tokens to their experts, and adds what the experts return.

Gather and combine are each other's gradient. Both read with an index and write each row once, so
there are no atomics: the same input gives the same bits.

Letters: B samples, N tokens, K experts chosen for a token, M = N · K rows sorted by expert,
F width, E experts. ``order`` and ``position`` are those of ``expert_order.ExpertOrder``.
"""

import torch

from trainer_core.kernels.gated_rows import gate_rows_plain, sample_rows
from trainer_core.kernels.rows8 import quantize_rows, rows_to_8_bits_plain
from trainer_core.kernels.triton_support import jit, next_power_of_2, packed, runs_triton, tl


def gather_rows(
    x_NF: torch.Tensor, order: torch.Tensor, choices: int, gate_BF: torch.Tensor | None = None
) -> torch.Tensor:
    """[M, F]: for each sorted row the row of its token, x[order // K], times the gate.

    On CUDA it has no gradient; see ``expert_rows_autograd``.

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


def gather_rows_to_8_bits(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
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
        dtype: of the rows.

    Returns:
        Rows [M, F] and scales [M], as in ``rows8``.
    """
    gather = gather_rows_to_8_bits_triton if runs_triton(grad_NF) else gather_rows_to_8_bits_plain
    return gather(grad_NF, order, expert, choices, factor_EF, gate_BF, dtype=dtype)


def gather_rows_to_8_bits_plain(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_8_bits`` in PyTorch."""
    gated_MF = gather_rows_plain(grad_NF.float(), order, choices, gate_BF)
    return rows_to_8_bits_plain(gated_MF * factor_EF[expert], dtype=dtype)


def gather_rows_to_8_bits_triton(
    grad_NF: torch.Tensor,
    order: torch.Tensor,
    expert: torch.Tensor,
    choices: int,
    factor_EF: torch.Tensor,
    gate_BF: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gather_rows_to_8_bits`` in one kernel."""
    return quantize_rows(
        grad_NF, factor_EF, gate_BF, dtype=dtype, order=order, choices=choices, expert=expert
    )


def combine_rows(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
    logits_NE: torch.Tensor | None = None,
    gate_EF: torch.Tensor | None = None,
) -> torch.Tensor:
    """[N, F]: Σ_k sorted[position[n · K + k]] + extra[n] + Σ_e logits[n, e] · gate[e].

    Sums are at least fp32. On CUDA it has no gradient; see ``expert_rows_autograd``.

    Args:
        sorted_MF: rows sorted by expert.
        position: [M], int32.
        choices: K.
        extra_NF: the shared expert's part; None: 0.
        logits_NE: gradients of the gate's logits, where the sum is the gradient of the tokens. It
            comes with ``gate_EF``. None: 0.
        gate_EF: the weight of the gate that chooses experts.
    """
    if runs_triton(sorted_MF):
        return combine_rows_triton(sorted_MF, position, choices, extra_NF, logits_NE, gate_EF)
    return combine_rows_plain(sorted_MF, position, choices, extra_NF, logits_NE, gate_EF)


def combine_rows_plain(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
    logits_NE: torch.Tensor | None = None,
    gate_EF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows`` in PyTorch."""
    sum_NF = _wide_sum(sorted_MF, position, choices, extra_NF)
    if logits_NE is not None and gate_EF is not None:
        sum_NF = sum_NF + logits_NE.to(sum_NF.dtype) @ gate_EF.to(sum_NF.dtype)
    return sum_NF.to(sorted_MF.dtype)


def _wide_sum(
    sorted_MF: torch.Tensor, position: torch.Tensor, choices: int, extra_NF: torch.Tensor | None
) -> torch.Tensor:
    wide = torch.promote_types(sorted_MF.dtype, torch.float32)
    sorted_NKF = sorted_MF[position].view(-1, choices, sorted_MF.shape[1])
    sum_NF = sorted_NKF.sum(1, dtype=wide)
    return sum_NF if extra_NF is None else sum_NF + extra_NF


def combine_rows_triton(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
    logits_NE: torch.Tensor | None = None,
    gate_EF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``combine_rows`` in one kernel."""
    return _launch_combine(
        sorted_MF, position, choices, extra_NF, logits=logits_NE, logits_gate=gate_EF
    )


def add_combined_rows(
    hidden_NF: torch.Tensor,
    gate_BF: torch.Tensor,
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """[N, F]: hidden[n] + gate[n // (N / B)] · combine_rows(sorted, position, K, extra)[n].

    The sum is at least fp32, and rounded once. On CUDA it has no gradient.

    Args:
        hidden_NF: the residual stream, one sample after the other.
        gate_BF: the gate of each sample; may be a view.
        sorted_MF, position, choices, extra_NF: as for ``combine_rows``.
    """
    add = add_combined_rows_triton if runs_triton(hidden_NF) else add_combined_rows_plain
    return add(hidden_NF, gate_BF, sorted_MF, position, choices, extra_NF)


def add_combined_rows_plain(
    hidden_NF: torch.Tensor,
    gate_BF: torch.Tensor,
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``add_combined_rows`` in PyTorch."""
    sum_NF = _wide_sum(sorted_MF, position, choices, extra_NF)
    return (hidden_NF + gate_rows_plain(sum_NF, gate_BF)).to(hidden_NF.dtype)


def add_combined_rows_triton(
    hidden_NF: torch.Tensor,
    gate_BF: torch.Tensor,
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None = None,
) -> torch.Tensor:
    """``add_combined_rows`` in one kernel."""
    return _launch_combine(
        sorted_MF, position, choices, extra_NF, hidden=hidden_NF.contiguous(), gate=packed(gate_BF)
    )


def _launch_combine(
    sorted_MF: torch.Tensor,
    position: torch.Tensor,
    choices: int,
    extra_NF: torch.Tensor | None,
    *,
    logits: torch.Tensor | None = None,
    logits_gate: torch.Tensor | None = None,
    hidden: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
) -> torch.Tensor:
    N, F = len(position) // choices, sorted_MF.shape[1]
    out_NF = sorted_MF.new_empty(N, F)
    _combine[(N,)](
        sorted_MF.contiguous(),
        position,
        None if extra_NF is None else extra_NF.contiguous(),
        None if logits is None else logits.contiguous(),
        None if logits_gate is None else logits_gate.contiguous(),
        hidden,
        gate,
        out_NF,
        0 if gate is None else gate.stride(0),
        1 if gate is None else sample_rows(N, gate),
        F,
        CHOICES=choices,
        EXPERTS=0 if logits_gate is None else len(logits_gate),
        BLOCK=next_power_of_2(F),
    )
    return out_NF


@jit
def _combine(
    rows: tl.tensor,
    position: tl.tensor,
    extra: tl.tensor,
    logits: tl.tensor,
    logits_gate: tl.tensor,
    hidden: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    gate_stride: tl.tensor,
    rows_of_sample: tl.tensor,
    F: tl.tensor,
    CHOICES: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """sum = Σ_k rows[position[n · K + k]] + extra[n] + Σ_e logits[n, e] · logits_gate[e], in fp32.

    out[n] = sum, or hidden[n] + gate[n // rows_of_sample] · sum. One program a token n.
    """
    token = tl.program_id(0)
    at = token.to(tl.int64) * F
    column = tl.arange(0, BLOCK)
    inside = column < F
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(CHOICES):
        row = tl.load(position + token * CHOICES + k).to(tl.int64)
        total += tl.load(rows + row * F + column, inside, other=0.0).to(tl.float32)
    if extra is not None:
        total += tl.load(extra + at + column, inside, other=0.0).to(tl.float32)
    for e in tl.static_range(EXPERTS):
        weight = tl.load(logits_gate + e * F + column, inside, other=0.0).to(tl.float32)
        total += tl.load(logits + token * EXPERTS + e).to(tl.float32) * weight
    if hidden is not None:
        gate += (token // rows_of_sample).to(tl.int64) * gate_stride
        total *= tl.load(gate + column, inside, other=0.0).to(tl.float32)
        total += tl.load(hidden + at + column, inside, other=0.0).to(tl.float32)
    tl.store(out + at + column, total.to(out.dtype.element_ty), inside)
