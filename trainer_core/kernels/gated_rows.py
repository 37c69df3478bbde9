"""Rows times the gate of their sample: how the gradient of a gated update begins.

Letters: B samples, N rows, N / B of each sample, F width.
"""

import torch

from trainer_core.kernels.triton_support import jit, next_power_of_2, packed, runs_triton, tl


def gate_rows(x_NF: torch.Tensor, gate_BF: torch.Tensor) -> torch.Tensor:
    """[N, F]: x[n] · gate[n // (N / B)], in the type of ``x_NF``. On CUDA it has no gradient.

    Args:
        x_NF: the rows of all samples, one sample after the other.
        gate_BF: may be a view.
    """
    return gate_rows_triton(x_NF, gate_BF) if runs_triton(x_NF) else gate_rows_plain(x_NF, gate_BF)


def gate_rows_plain(x_NF: torch.Tensor, gate_BF: torch.Tensor) -> torch.Tensor:
    """``gate_rows`` in PyTorch."""
    B, F = gate_BF.shape
    gated_BRF = x_NF.view(B, -1, F) * gate_BF[:, None]
    return gated_BRF.view(-1, F).to(x_NF.dtype)


def gate_rows_triton(x_NF: torch.Tensor, gate_BF: torch.Tensor) -> torch.Tensor:
    """``gate_rows`` in one kernel."""
    x_NF, gate_BF = x_NF.contiguous(), packed(gate_BF)
    N, F = x_NF.shape
    out_NF = torch.empty_like(x_NF)
    _gate[(N,)](
        x_NF,
        gate_BF,
        out_NF,
        gate_BF.stride(0),
        sample_rows(N, gate_BF),
        F,
        BLOCK=next_power_of_2(F),
    )
    return out_NF


def sample_rows(rows: int, gate_BF: torch.Tensor) -> int:
    """How many of ``rows`` belong to each sample."""
    assert rows % len(gate_BF) == 0
    return rows // len(gate_BF)


@jit
def _gate(
    x: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    gate_stride: tl.tensor,
    rows: tl.tensor,
    F: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """out[n] = x[n] · gate[n // rows], one program a row."""
    row = tl.program_id(0)
    gate += (row // rows).to(tl.int64) * gate_stride
    at = row.to(tl.int64) * F
    column = tl.arange(0, BLOCK)
    value = tl.load(x + at + column, column < F).to(tl.float32)
    value *= tl.load(gate + column, column < F).to(tl.float32)
    tl.store(out + at + column, value.to(out.dtype.element_ty), column < F)
