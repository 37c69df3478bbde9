"""Residual sum, layer norm and modulation in one pass, as at both halves of a block.

Letters: B samples, S live rows, T tail rows, R = S + T, F width.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer_core.kernels.activation import Activation
from trainer_core.kernels.rows8 import largest_magnitude, rounded8, rows_to_8_bits_plain, scale8
from trainer_core.kernels.triton_support import (
    jit,
    next_power_of_2,
    packed,
    runs_triton,
    tl,
    warps_for,
)


class AddNorm(NamedTuple):
    """The outputs of ``add_norm``."""

    hidden_BSF: torch.Tensor
    """The residual stream after the update."""
    normed: Activation
    """[B, R, F]: what the next products read."""


def add_norm(
    hidden_BSF: torch.Tensor,
    shift_BF: torch.Tensor,
    scale_BF: torch.Tensor,
    *,
    update_BSF: torch.Tensor | None = None,
    gate_BF: torch.Tensor | None = None,
    tail_BTF: torch.Tensor | None = None,
    eps: float = 1e-6,
    dtype8: torch.dtype | None = None,
) -> AddNorm:
    """Add a gated update to the residual stream, then normalize and modulate it and the tail.

    hidden' = hidden + gate · update
    normed  = layer_norm(cat[hidden', tail]) · (1 + scale) + shift, without weight and bias

    Source: ``HiDreamImageTransformerBlock`` of diffusers 0.42.1, where the update is an output of
    attention or of the experts.

    Args:
        hidden_BSF: the residual stream.
        shift_BF, scale_BF, gate_BF: the modulation of each sample; may be views.
        update_BSF: None: hidden' is hidden. It needs a gate.
        tail_BTF: rows that are normalized after those of the stream, and leave it again.
        eps: added to the variance.
        dtype8: also store the rows of ``normed`` in this type of 8 bits.

    Raises:
        ValueError: only one of update and gate is given.
    """
    if (update_BSF is None) != (gate_BF is None):
        raise ValueError("an update and its gate come together")
    compute = add_norm_triton if runs_triton(hidden_BSF) else add_norm_plain
    return compute(
        hidden_BSF,
        shift_BF,
        scale_BF,
        update_BSF=update_BSF,
        gate_BF=gate_BF,
        tail_BTF=tail_BTF,
        eps=eps,
        dtype8=dtype8,
    )


def add_norm_plain(
    hidden_BSF: torch.Tensor,
    shift_BF: torch.Tensor,
    scale_BF: torch.Tensor,
    *,
    update_BSF: torch.Tensor | None,
    gate_BF: torch.Tensor | None,
    tail_BTF: torch.Tensor | None,
    eps: float,
    dtype8: torch.dtype | None,
) -> AddNorm:
    """``add_norm`` in PyTorch, rounded where diffusers rounds."""
    if update_BSF is not None and gate_BF is not None:
        hidden_BSF = gate_BF[:, None] * update_BSF + hidden_BSF
    rows_BRF = hidden_BSF if tail_BTF is None else torch.cat([hidden_BSF, tail_BTF], dim=1)
    normed_BRF = functional.layer_norm(rows_BRF, rows_BRF.shape[-1:], eps=eps).to(rows_BRF.dtype)
    normed_BRF = normed_BRF * (1 + scale_BF[:, None]) + shift_BF[:, None]
    quantized = (None, None) if dtype8 is None else rows_to_8_bits_plain(normed_BRF, dtype=dtype8)
    return AddNorm(hidden_BSF, Activation(normed_BRF, *quantized))


def add_norm_triton(
    hidden_BSF: torch.Tensor,
    shift_BF: torch.Tensor,
    scale_BF: torch.Tensor,
    *,
    update_BSF: torch.Tensor | None,
    gate_BF: torch.Tensor | None,
    tail_BTF: torch.Tensor | None,
    eps: float,
    dtype8: torch.dtype | None,
) -> AddNorm:
    """``add_norm`` in one kernel, and its backward in another. hidden' is rounded once."""
    hidden_BSF, *normed = _AddNorm.apply(  # type: ignore[no-untyped-call]
        hidden_BSF, shift_BF, scale_BF, update_BSF, gate_BF, tail_BTF, eps, dtype8
    )
    return AddNorm(hidden_BSF, Activation(*normed))


class _AddNorm(torch.autograd.Function):
    """hidden', the normed rows, their copy in 8 bits and its scales."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        shift: torch.Tensor,
        scale: torch.Tensor,
        update: torch.Tensor | None,
        gate: torch.Tensor | None,
        tail: torch.Tensor | None,
        eps: float,
        dtype8: torch.dtype | None,
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, shift, scale = hidden.contiguous(), packed(shift), packed(scale)
        update, gate, tail = _contiguous(update), packed(gate), _contiguous(tail)
        B, S, F = hidden.shape
        T = 0 if tail is None else tail.shape[1]
        N = B * (S + T)
        summed = hidden if update is None else torch.empty_like(hidden)
        normed = hidden.new_empty(B, S + T, F)
        mean = hidden.new_empty(N, dtype=torch.float32)
        rstd = torch.empty_like(mean)
        rows8 = None if dtype8 is None else hidden.new_empty(N, F, dtype=dtype8)
        row_scale = None if dtype8 is None else torch.empty_like(mean)
        block = next_power_of_2(F)
        _forward[(N,)](
            hidden, update, tail, gate, scale, shift,
            summed, normed, mean, rstd, rows8, row_scale,
            0 if gate is None else gate.stride(0), scale.stride(0), shift.stride(0),
            S, T, F, eps,
            BLOCK=block, num_warps=warps_for(block),
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        if rows8 is not None:
            ctx.mark_non_differentiable(rows8, row_scale)
        _, _, needs_scale, needs_update, needs_gate, needs_tail, *_ = ctx.needs_input_grad
        ctx.T = T
        ctx.save_for_backward(
            summed,
            mean,
            rstd,
            scale,
            gate if needs_update else None,
            update if needs_gate else None,
            tail if needs_tail or needs_scale else None,
        )
        return summed, normed, rows8, row_scale

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_summed: torch.Tensor | None, d_normed: torch.Tensor | None, *_: None
    ) -> tuple[torch.Tensor | None, ...]:
        summed, mean, rstd, scale, gate, update, tail = ctx.saved_tensors
        _, needs_shift, needs_scale, needs_update, needs_gate, needs_tail, *_ = ctx.needs_input_grad
        B, S, F = summed.shape
        T = ctx.T
        if d_normed is None:
            d_normed = summed.new_zeros(B, S + T, F)
        d_summed, d_normed = _contiguous(d_summed), d_normed.contiguous()
        d_hidden = torch.empty_like(summed)
        d_update = torch.empty_like(summed) if needs_update else None
        d_tail = torch.empty_like(tail) if needs_tail else None
        # The rows of the tail come last, and are left out where nobody wants their gradient.
        rows = S + T if needs_tail else S
        block = next_power_of_2(F)
        _backward[(B * rows,)](
            d_normed, d_summed, summed, tail if needs_tail else None, mean, rstd, scale, gate,
            d_hidden, d_update, d_tail,
            scale.stride(0), 0 if gate is None else gate.stride(0),
            S, T, F, rows,
            BLOCK=block, num_warps=warps_for(block),
        )  # fmt: skip
        d_shift = d_normed.sum(1) if needs_shift else None
        d_scale = d_gate = None
        if needs_scale:
            rows_BRF = summed if tail is None else torch.cat([summed, tail], dim=1)
            centred_BRF = rows_BRF.float() - mean.view(B, -1, 1)
            d_scale = (d_normed * centred_BRF * rstd.view(B, -1, 1)).sum(1).to(scale.dtype)
        if needs_gate:
            d_gate = (d_hidden.float() * update).sum(1).to(update.dtype)
        return d_hidden, d_shift, d_scale, d_update, d_gate, d_tail, None, None


def _contiguous(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.contiguous()


@jit
def _load_row(
    hidden: tl.tensor,
    tail: tl.tensor,
    sample: tl.tensor,
    position: tl.tensor,
    S: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    columns: tl.tensor,
) -> tl.tensor:
    """Row ``position`` of cat[hidden, tail], in fp32."""
    inside = columns < F
    live = tl.load(
        hidden + (sample * S + position) * F + columns, inside & (position < S), other=0.0
    )
    x = live.to(tl.float32)
    if tail is not None:
        at = (sample * T + position - S) * F + columns
        x += tl.load(tail + at, inside & (position >= S), other=0.0).to(tl.float32)
    return x


@jit
def _forward(
    hidden: tl.tensor,
    update: tl.tensor,
    tail: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    summed: tl.tensor,
    normed: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    rows8: tl.tensor,
    row_scale: tl.tensor,
    gate_stride: tl.tensor,
    scale_stride: tl.tensor,
    shift_stride: tl.tensor,
    S: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row of ``normed``. Reads a row of hidden (and update) or of the tail.

    Writes its sum, normed row, mean, 1 / standard deviation, and where rows8 is not None the normed
    row in 8 bits with its scale.
    """
    program = tl.program_id(0)
    sample, position = (program // (S + T)).to(tl.int64), program % (S + T)
    row = program.to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < F
    x = _load_row(hidden, tail, sample, position, S, T, F, columns)
    if update is not None:
        live = inside & (position < S)
        at = (sample * S + position) * F + columns
        added = tl.load(update + at, live, other=0.0).to(tl.float32)
        added *= tl.load(gate + sample * gate_stride + columns, live, other=0.0).to(tl.float32)
        # The norm reads the sum as it is stored, so the backward sees the same row.
        stored = (x + added).to(summed.dtype.element_ty)
        tl.store(summed + at, stored, live)
        x = stored.to(tl.float32)
    row_mean = tl.sum(x, 0) / F
    centred = tl.where(inside, x - row_mean, 0.0)
    row_rstd = tl.rsqrt(tl.sum(centred * centred, 0) / F + eps)
    tl.store(mean + row, row_mean)
    tl.store(rstd + row, row_rstd)
    factor = 1 + tl.load(scale + sample * scale_stride + columns, inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_stride + columns, inside, other=0.0).to(tl.float32)
    value = (centred * row_rstd * factor + offset).to(normed.dtype.element_ty)
    tl.store(normed + row * F + columns, value, inside)
    if rows8 is not None:
        rounded = value.to(tl.float32)
        value_scale = scale8(largest_magnitude(tl.abs(rounded)), rows8)
        tl.store(rows8 + row * F + columns, rounded8(rounded / value_scale, rows8), inside)
        tl.store(row_scale + row, value_scale)


@jit
def _backward(
    d_normed: tl.tensor,
    d_summed: tl.tensor,
    summed: tl.tensor,
    tail: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    scale: tl.tensor,
    gate: tl.tensor,
    d_hidden: tl.tensor,
    d_update: tl.tensor,
    d_tail: tl.tensor,
    scale_stride: tl.tensor,
    gate_stride: tl.tensor,
    S: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    rows: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program for each of the first ``rows`` rows of a sample.

    With g = d_normed · (1 + scale) and the normalized row n:
    d = (g - mean(g) - n · mean(g · n)) / standard deviation, plus d_summed in a live row.
    Writes d_hidden = d and d_update = gate · d, or d_tail = d.
    """
    program = tl.program_id(0)
    sample, position = (program // rows).to(tl.int64), program % rows
    row = sample * (S + T) + position
    columns = tl.arange(0, BLOCK)
    inside = columns < F
    x = _load_row(summed, tail, sample, position, S, T, F, columns)
    row_rstd = tl.load(rstd + row)
    n = (x - tl.load(mean + row)) * row_rstd
    factor = 1 + tl.load(scale + sample * scale_stride + columns, inside, other=0.0).to(tl.float32)
    g = tl.load(d_normed + row * F + columns, inside, other=0.0).to(tl.float32) * factor
    d = (g - tl.sum(g, 0) / F - n * (tl.sum(g * n, 0) / F)) * row_rstd
    live = inside & (position < S)
    at = (sample * S + position) * F + columns
    if d_summed is not None:
        d += tl.load(d_summed + at, live, other=0.0).to(tl.float32)
    tl.store(d_hidden + at, d.to(d_hidden.dtype.element_ty), live)
    if d_update is not None:
        d_added = d * tl.load(gate + sample * gate_stride + columns, live, other=0.0).to(tl.float32)
        tl.store(d_update + at, d_added.to(d_update.dtype.element_ty), live)
    if d_tail is not None:
        at_tail = (sample * T + position - S) * F + columns
        tl.store(d_tail + at_tail, d.to(d_tail.dtype.element_ty), inside & (position >= S))
