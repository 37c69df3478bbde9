"""The W1 part of LoKr, W1 · (X · W2ᵀ): mixes the groups of each row, and its gradients.

``hidden`` is X · W2ᵀ. A row of the output is a groups of K columns side by side:

    out[n, a · K + k] += Σ_c w1[a, c] · hidden[n, c, k]

Both factors are small matrices, so the time goes into reading and writing rows. Each kernel reads
and writes every row once. It works on blocks of columns (n, k), and multiplies each with all of w1.

Letters: N rows, a · K = O output width, c · D = input width, J a block of (n, k).
"""

from typing import Final

import torch

from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl

_PROGRAMS: Final = 792
"""Six for each of the 132 multiprocessors of an H100. A constant, so that sums have one order."""
_SUM_COLUMNS: Final = 8
"""32 bytes, the least that memory reads at once."""


def mix_add_(out_NO: torch.Tensor, hidden_NcK: torch.Tensor, w1_ac: torch.Tensor) -> None:
    """Adds W1 · hidden to ``out_NO``, in place. Sums are at least fp32.

    Args:
        out_NO: may be columns of a wider tensor.
        hidden_NcK: a view with any strides of rows and groups.
        w1_ac: in the type of both.
    """
    if runs_triton(out_NO):
        mix_add_triton_(out_NO, hidden_NcK, w1_ac)
    else:
        mix_add_plain_(out_NO, hidden_NcK, w1_ac)


def mix_add_plain_(out_NO: torch.Tensor, hidden_NcK: torch.Tensor, w1_ac: torch.Tensor) -> None:
    """``mix_add_`` in PyTorch."""
    wide = torch.promote_types(out_NO.dtype, torch.float32)
    mixed_NaK = torch.matmul(w1_ac.to(wide), hidden_NcK.to(wide))
    out_NO.copy_(out_NO + mixed_NaK.flatten(1))


def mix_add_triton_(out_NO: torch.Tensor, hidden_NcK: torch.Tensor, w1_ac: torch.Tensor) -> None:
    """``mix_add_`` in one kernel."""
    assert out_NO.stride(1) == 1
    assert hidden_NcK.stride(2) == 1
    (a, c), (N, _, K) = w1_ac.shape, hidden_NcK.shape
    A, C, BLOCK, num_warps = _block_sizes(a, c)
    mix_add_blocks[(-(-N * K // BLOCK),)](
        out_NO,
        hidden_NcK,
        w1_ac.contiguous(),
        N * K,
        out_NO.stride(0),
        hidden_NcK.stride(0),
        hidden_NcK.stride(1),
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
    w1_ac: torch.Tensor,
    grad_hidden_NcK: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of ``hidden``, [N, c, K], and of ``w1``, [a, c] in at least fp32.

    Args:
        grad_NO: the gradient of the output; may be columns of a wider tensor.
        hidden_NcK: a view with any strides of rows and groups.
        w1_ac: in the type of both.
        grad_hidden_NcK: receives the first gradient; a view as ``hidden_NcK`` is. None: a new one.
    """
    if grad_hidden_NcK is None:
        grad_hidden_NcK = torch.empty_like(hidden_NcK, memory_format=torch.contiguous_format)
    if runs_triton(grad_NO):
        grad_w1 = mix_grad_triton(grad_NO, hidden_NcK, w1_ac, grad_hidden_NcK)
    else:
        grad_w1 = mix_grad_plain(grad_NO, hidden_NcK, w1_ac, grad_hidden_NcK)
    return grad_hidden_NcK, grad_w1


def mix_grad_plain(
    grad_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1_ac: torch.Tensor,
    grad_hidden_NcK: torch.Tensor,
) -> torch.Tensor:
    """``mix_grad`` in PyTorch; returns the gradient of ``w1``."""
    wide = torch.promote_types(grad_NO.dtype, torch.float32)
    grad_NaK = grad_NO.view(len(grad_NO), len(w1_ac), -1).to(wide)
    grad_hidden_NcK.copy_(torch.matmul(w1_ac.t().to(wide), grad_NaK))
    return torch.einsum("nak,nck->ac", grad_NaK, hidden_NcK.to(wide))


def mix_grad_triton(
    grad_NO: torch.Tensor,
    hidden_NcK: torch.Tensor,
    w1_ac: torch.Tensor,
    grad_hidden_NcK: torch.Tensor,
) -> torch.Tensor:
    """``mix_grad`` in one kernel, and one for the sum over its programs; returns grad of ``w1``."""
    assert grad_NO.stride(1) == 1
    assert hidden_NcK.stride(2) == grad_hidden_NcK.stride(2) == 1
    (a, c), (N, _, K) = w1_ac.shape, hidden_NcK.shape
    A, C, BLOCK, num_warps = _block_sizes(a, c)
    programs = min(-(-N * K // BLOCK), _PROGRAMS)
    parts = torch.empty(programs, a, c, dtype=torch.float32, device=grad_NO.device)
    mix_grad_blocks[(programs,)](
        grad_NO,
        hidden_NcK,
        w1_ac.contiguous(),
        grad_hidden_NcK,
        parts,
        N * K,
        grad_NO.stride(0),
        hidden_NcK.stride(0),
        hidden_NcK.stride(1),
        grad_hidden_NcK.stride(0),
        grad_hidden_NcK.stride(1),
        a=a,
        c=c,
        K=K,
        A=A,
        C=C,
        BLOCK=BLOCK,
        num_warps=num_warps,
    )
    return _sum(parts)


def _sum(parts_Pac: torch.Tensor) -> torch.Tensor:
    """Σ_p parts[p]. PyTorch's sum gives so few columns too few programs."""
    P, a, c = parts_Pac.shape
    sum_ac = parts_Pac.new_empty(a, c)
    sum_parts[(-(-a * c // _SUM_COLUMNS),)](
        parts_Pac, sum_ac, P, a * c, BLOCK=_SUM_COLUMNS, PARTS=next_power_of_2(P), num_warps=8
    )
    return sum_ac


def _block_sizes(a: int, c: int) -> tuple[int, int, int, int]:
    """A and C, which hold w1 in powers of two from 16 on, columns of a block, and warps."""
    A, C = max(next_power_of_2(a), 16), max(next_power_of_2(c), 16)
    largest = max(A, C)
    return A, C, max(2048 // largest, 32), min(largest // 8, 8)


@jit
def mix_add_blocks(
    out: tl.tensor,
    hidden: tl.tensor,
    w1: tl.tensor,
    columns: tl.tensor,
    out_stride: tl.tensor,
    hidden_stride: tl.tensor,
    hidden_group_stride: tl.tensor,
    a: tl.constexpr,
    c: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """out[a, j] += Σ_c w1[a, c] · hidden[c, j] for one block of columns j = (n, k)."""
    every_A = tl.arange(0, A)[:, None]
    every_C = tl.arange(0, C)
    w1_AC = tl.load(
        w1 + every_A * c + every_C[None, :], (every_A < a) & (every_C[None, :] < c), other=0.0
    )
    every_C = every_C[:, None]
    column_J = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside_J = column_J < columns
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
    columns: tl.tensor,
    grad_stride: tl.tensor,
    hidden_stride: tl.tensor,
    hidden_group_stride: tl.tensor,
    grad_hidden_stride: tl.tensor,
    grad_hidden_group_stride: tl.tensor,
    a: tl.constexpr,
    c: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """For every P-th block of columns j = (n, k), where P is the number of programs:

    grad_hidden[c, j] = Σ_a w1[a, c] · grad[a, j], and this program's part of the gradient of w1,
    parts[p, a, c] = Σ_j grad[a, j] · hidden[c, j].
    """
    every_A = tl.arange(0, A)
    every_C = tl.arange(0, C)[:, None]
    w1_CA = tl.load(
        w1 + every_A[None, :] * c + every_C, (every_A[None, :] < a) & (every_C < c), other=0.0
    )
    every_A = every_A[:, None]
    grad_w1_AC = tl.zeros((A, C), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(columns, BLOCK), tl.num_programs(0)):
        column_J = (block * BLOCK + tl.arange(0, BLOCK))[None, :]
        inside_J = column_J < columns
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
    column_C = tl.arange(0, C)[None, :]
    part_AC = parts + tl.program_id(0) * a * c + every_A * c + column_C
    tl.store(part_AC, grad_w1_AC, (every_A < a) & (column_C < c))


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
