"""The W1 part of LoKr, W1 · (X · W2ᵀ): mixes the groups of each row, and its gradients.

``hidden`` is X · W2ᵀ. A row of the output is a groups of K columns side by side:

    out[n, a · K + k] += Σ_c w1[a, c] · hidden[n, c, k]

Both factors are small matrices, so the time goes into reading and writing rows. Each kernel reads
and writes every row once. It works on blocks of columns (n, k), and multiplies each with all of w1.
Rows sorted by expert may have a w1 for each expert; then a block has columns of one expert.

Letters: N rows, a · K = O output width, c · D = input width, J a block of (n, k), E experts.
"""

from typing import Final

import torch

from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl

_PROGRAMS: Final = 792
"""Six for each of the 132 multiprocessors of an H100. A constant, so that sums have one order."""
_SUM_COLUMNS: Final = 8
"""32 bytes, the least that memory reads at once."""


def mix_add_(
    out_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    ends_E: torch.Tensor | None = None,
) -> None:
    """Adds W1 · hidden to ``out_NO``, in place. Sums are at least fp32.

    Args:
        out_NO: may be columns of a wider tensor.
        hidden_NcK: a view with any strides of rows and groups.
        w1: [a, c], or [E, a, c] with ``ends_E``; in the type of both.
        ends_E: int32: the row after the last one of each expert. The last end is N.
    """
    if runs_triton(out_NO):
        mix_add_triton_(out_NO, hidden_NcK, w1, ends_E)
    else:
        mix_add_plain_(out_NO, hidden_NcK, w1, ends_E)


def mix_add_plain_(
    out_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    ends_E: torch.Tensor | None = None,
) -> None:
    """``mix_add_`` in PyTorch."""
    if ends_E is not None:
        parts = (_rows_of_experts(each, ends_E) for each in (out_NO, hidden_NcK))
        for out, hidden, w1_ac in zip(*parts, w1, strict=True):
            mix_add_plain_(out, hidden, w1_ac)
        return
    wide = torch.promote_types(out_NO.dtype, torch.float32)
    mixed_NaK = torch.matmul(w1.to(wide), hidden_NcK.to(wide))
    out_NO.copy_(out_NO + mixed_NaK.flatten(1))


def _rows_of_experts(rows: torch.Tensor, ends_E: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.tensor_split(rows, ends_E[:-1].long().cpu())


def mix_add_triton_(
    out_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    ends_E: torch.Tensor | None = None,
) -> None:
    """``mix_add_`` in one kernel."""
    assert out_NO.stride(1) == 1
    assert hidden_NcK.stride(2) == 1
    E, a, c = _shape_of(w1, ends_E)
    N, _, K = hidden_NcK.shape
    A, C, BLOCK, num_warps = _block_sizes(a, c)
    # Each expert but one may have one more block than its columns fill.
    mix_add_blocks[(-(-N * K // BLOCK) + E - 1,)](
        out_NO,
        hidden_NcK,
        w1.contiguous(),
        ends_E,
        N,
        out_NO.stride(0),
        hidden_NcK.stride(0),
        hidden_NcK.stride(1),
        E=E,
        a=a,
        c=c,
        K=K,
        A=A,
        C=C,
        BLOCK=BLOCK,
        num_warps=num_warps,
    )


def mix_grad(
    grad_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    grad_hidden_NcK: torch.Tensor | None = None,
    ends_E: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of ``hidden``, [N, c, K], and of ``w1``, in at least fp32.

    Args:
        grad_NO: the gradient of the output; may be columns of a wider tensor.
        hidden_NcK: a view with any strides of rows and groups.
        w1: [a, c], or [E, a, c] with ``ends_E``; in the type of both.
        grad_hidden_NcK: receives the first gradient; a view as ``hidden_NcK`` is. None: a new one.
        ends_E: as for ``mix_add_``.
    """
    if grad_hidden_NcK is None:
        grad_hidden_NcK = torch.empty_like(hidden_NcK, memory_format=torch.contiguous_format)
    if runs_triton(grad_NO):
        grad_w1 = mix_grad_triton(grad_NO, hidden_NcK, w1, grad_hidden_NcK, ends_E)
    else:
        grad_w1 = mix_grad_plain(grad_NO, hidden_NcK, w1, grad_hidden_NcK, ends_E)
    return grad_hidden_NcK, grad_w1


def mix_grad_plain(
    grad_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    grad_hidden_NcK: torch.Tensor,
    ends_E: torch.Tensor | None = None,
) -> torch.Tensor:
    """``mix_grad`` in PyTorch; returns the gradient of ``w1``."""
    if ends_E is not None:
        grad, hidden, grad_hidden = (
            _rows_of_experts(each, ends_E) for each in (grad_NO, hidden_NcK, grad_hidden_NcK)
        )
        return torch.stack(
            [mix_grad_plain(*each) for each in zip(grad, hidden, w1, grad_hidden, strict=True)]
        )
    wide = torch.promote_types(grad_NO.dtype, torch.float32)
    grad_NaK = grad_NO.view(len(grad_NO), len(w1), hidden_NcK.shape[2]).to(wide)
    grad_hidden_NcK.copy_(torch.matmul(w1.t().to(wide), grad_NaK))
    return torch.einsum("nak,nck->ac", grad_NaK, hidden_NcK.to(wide))


def mix_grad_triton(
    grad_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1: torch.Tensor,
    grad_hidden_NcK: torch.Tensor,
    ends_E: torch.Tensor | None = None,
) -> torch.Tensor:
    """``mix_grad`` in one kernel, and one for the sum over its programs; returns grad of ``w1``."""
    assert grad_NO.stride(1) == 1
    assert hidden_NcK.stride(2) == grad_hidden_NcK.stride(2) == 1
    E, a, c = _shape_of(w1, ends_E)
    N, _, K = hidden_NcK.shape
    A, C, BLOCK, num_warps = _block_sizes(a, c)
    programs = min(-(-N * K // BLOCK), _PROGRAMS)
    parts = torch.empty(programs, *w1.shape, dtype=torch.float32, device=grad_NO.device)
    mix_grad_blocks[(programs,)](
        grad_NO,
        hidden_NcK,
        w1.contiguous(),
        grad_hidden_NcK,
        parts,
        ends_E,
        N,
        grad_NO.stride(0),
        hidden_NcK.stride(0),
        hidden_NcK.stride(1),
        grad_hidden_NcK.stride(0),
        grad_hidden_NcK.stride(1),
        E=E,
        a=a,
        c=c,
        K=K,
        A=A,
        C=C,
        BLOCK=BLOCK,
        num_warps=num_warps,
    )
    return _sum(parts)


def _shape_of(w1: torch.Tensor, ends_E: torch.Tensor | None) -> tuple[int, int, int]:
    """E, a and c; without ends, one expert has all rows."""
    if ends_E is None:
        a, c = w1.shape
        return 1, a, c
    E, a, c = w1.shape
    assert ends_E.dtype == torch.int32
    assert len(ends_E) == E
    return E, a, c


def _sum(parts: torch.Tensor) -> torch.Tensor:
    """Σ_p parts[p]. PyTorch's sum gives so few columns too few programs."""
    P, total = len(parts), torch.empty_like(parts[0])
    columns = total.numel()
    sum_parts[(-(-columns // _SUM_COLUMNS),)](
        parts, total, P, columns, BLOCK=_SUM_COLUMNS, PARTS=next_power_of_2(P), num_warps=8
    )
    return total


def _block_sizes(a: int, c: int) -> tuple[int, int, int, int]:
    """A and C, which hold w1 in powers of two from 16 on, columns of a block, and warps."""
    A, C = max(next_power_of_2(a), 16), max(next_power_of_2(c), 16)
    largest = max(A, C)
    return A, C, max(2048 // largest, 32), min(largest // 8, 8)


@jit
def _rows_of(e: tl.tensor, ends: tl.tensor, rows: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """First row of expert e, and the row after its last; without ends, one expert has all rows."""
    start = 0
    end = rows
    if ends is not None:
        start = tl.load(ends + e - 1, e > 0, other=0)
        end = tl.load(ends + e)
    return start, end


@jit
def _place_of(
    block: tl.tensor,
    ends: tl.tensor,
    rows: tl.tensor,
    E: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The expert of a block, the block's first column, and the column after the expert's last.

    Blocks are counted expert by expert. One past the last of them has no column before that end.
    """
    expert = 0
    column = 0
    stop = 0
    first = 0
    for e in tl.static_range(E):
        start, end = _rows_of(e, ends, rows)
        is_reached = block >= first
        expert = tl.where(is_reached, e, expert)
        column = tl.where(is_reached, start * K + (block - first) * BLOCK, column)
        stop = tl.where(is_reached, end * K, stop)
        first += tl.cdiv((end - start) * K, BLOCK)
    return expert, column, stop


@jit
def mix_add_blocks(
    out: tl.tensor,
    hidden: tl.tensor,
    w1: tl.tensor,
    ends: tl.tensor,
    rows: tl.tensor,
    out_stride: tl.tensor,
    hidden_stride: tl.tensor,
    hidden_group_stride: tl.tensor,
    E: tl.constexpr,
    a: tl.constexpr,
    c: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """out[a, j] += Σ_c w1[e, a, c] · hidden[c, j] for one block of columns j = (n, k).

    e is the expert of its rows n. Reads and writes only this block of ``out``.
    """
    expert, first, stop = _place_of(tl.program_id(0), ends, rows, E, K, BLOCK)
    w1 += expert * a * c
    every_A = tl.arange(0, A)[:, None]
    every_C = tl.arange(0, C)
    w1_AC = tl.load(
        w1 + every_A * c + every_C[None, :], (every_A < a) & (every_C[None, :] < c), other=0.0
    )
    every_C = every_C[:, None]
    column_J = (first + tl.arange(0, BLOCK))[None, :]
    inside_J = column_J < stop
    n_J = (column_J // K).to(tl.int64)
    k_J = column_J % K
    hidden_CJ = tl.load(
        hidden + n_J * hidden_stride + every_C * hidden_group_stride + k_J,
        inside_J & (every_C < c),
        other=0.0,
    )
    out_AJ = out + n_J * out_stride + every_A * K + k_J
    inside_AJ = inside_J & (every_A < a)
    total_AJ = tl.load(out_AJ, inside_AJ, other=0.0).to(tl.float32)
    total_AJ += tl.dot(w1_AC, hidden_CJ, input_precision="ieee")
    tl.store(out_AJ, total_AJ.to(out.dtype.element_ty), inside_AJ)


@jit
def mix_grad_blocks(
    grad: tl.tensor,
    hidden: tl.tensor,
    w1: tl.tensor,
    grad_hidden: tl.tensor,
    parts: tl.tensor,
    ends: tl.tensor,
    rows: tl.tensor,
    grad_stride: tl.tensor,
    hidden_stride: tl.tensor,
    hidden_group_stride: tl.tensor,
    grad_hidden_stride: tl.tensor,
    grad_hidden_group_stride: tl.tensor,
    E: tl.constexpr,
    a: tl.constexpr,
    c: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """For every P-th block of columns j = (n, k) of each expert e, P the number of programs:

    grad_hidden[c, j] = Σ_a w1[e, a, c] · grad[a, j], and this program's part of the gradient of w1,
    parts[p, e, a, c] = Σ_j grad[a, j] · hidden[c, j], which is 0 for an expert without rows.
    """
    every_A = tl.arange(0, A)[:, None]
    row_A = tl.arange(0, A)[None, :]
    every_C = tl.arange(0, C)[:, None]
    row_C = tl.arange(0, C)[None, :]
    for e in range(E):
        start, end = _rows_of(e, ends, rows)
        w1_CA = tl.load(
            w1 + e * a * c + row_A * c + every_C, (row_A < a) & (every_C < c), other=0.0
        )
        grad_w1_AC = tl.zeros((A, C), tl.float32)
        blocks = tl.cdiv((end - start) * K, BLOCK)
        for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
            column_J = (start * K + block * BLOCK + tl.arange(0, BLOCK))[None, :]
            inside_J = column_J < end * K
            n_J = (column_J // K).to(tl.int64)
            k_J = column_J % K
            grad_AJ = tl.load(
                grad + n_J * grad_stride + every_A * K + k_J, inside_J & (every_A < a), other=0.0
            )
            hidden_CJ = tl.load(
                hidden + n_J * hidden_stride + every_C * hidden_group_stride + k_J,
                inside_J & (every_C < c),
                other=0.0,
            )
            grad_hidden_CJ = tl.dot(w1_CA, grad_AJ, input_precision="ieee")
            tl.store(
                grad_hidden + n_J * grad_hidden_stride + every_C * grad_hidden_group_stride + k_J,
                grad_hidden_CJ.to(grad_hidden.dtype.element_ty),
                inside_J & (every_C < c),
            )
            grad_w1_AC = tl.dot(grad_AJ, tl.trans(hidden_CJ), grad_w1_AC, input_precision="ieee")
        part_AC = parts + (tl.program_id(0) * E + e) * a * c + every_A * c + row_C
        tl.store(part_AC, grad_w1_AC, (every_A < a) & (row_C < c))


@jit
def sum_parts(
    parts: tl.tensor,
    out: tl.tensor,
    P: tl.tensor,
    columns: tl.tensor,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """out[j] = Σ_p parts[p, j] for one block of columns; all its parts are loaded at once."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.arange(0, PARTS)[:, None]
    value = tl.load(
        parts + part * columns + column[None, :],
        (part < P) & (column[None, :] < columns),
        other=0.0,
    )
    tl.store(out + column, tl.sum(value, 0), column < columns)
