"""Sorts the choices of experts, so that each expert finds its rows side by side.

A counting sort on the device, stable and without atomics: the same choices give the same order.

Letters: N tokens, K experts chosen for a token, M = N · K choices, E experts. Choice n · K + k is
the k-th choice of token n.
"""

from typing import Final, NamedTuple

import torch

from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl

_BLOCK: Final = 256


class ExpertOrder(NamedTuple):
    """The choices sorted by expert, by choice within an expert. All int32 but the weights."""

    order: torch.Tensor
    """[M]: the choice that stands in each sorted row."""
    position: torch.Tensor
    """[M]: the sorted row in which each choice stands."""
    expert: torch.Tensor
    """[M]: the expert of each sorted row."""
    ends: torch.Tensor
    """[E]: the row after the last one of each expert, as grouped matrix products take it."""
    weight: torch.Tensor | None = None
    """[M], at least fp32: the weight of the choice of each sorted row."""


def expert_order(
    chosen_NK: torch.Tensor, experts: int, weight_NK: torch.Tensor | None = None
) -> ExpertOrder:
    """Sorts the choices by expert. On CUDA the weights have no gradient; see ``route_gradient``.

    Args:
        chosen_NK: the experts chosen for each token, from 0 on, in any integer type.
        experts: how many there are.
        weight_NK: the weights of the choices, to be sorted too.
    """
    if runs_triton(chosen_NK):
        return expert_order_triton(chosen_NK, experts, weight_NK)
    return expert_order_plain(chosen_NK, experts, weight_NK)


def expert_order_plain(
    chosen_NK: torch.Tensor, experts: int, weight_NK: torch.Tensor | None = None
) -> ExpertOrder:
    """``expert_order`` in PyTorch."""
    chosen_M = chosen_NK.flatten().long()
    order = chosen_M.argsort(stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    is_of_ME = chosen_M[:, None] == torch.arange(experts, device=order.device)
    ends = is_of_ME.sum(0).cumsum(0)
    weight_M = None
    if weight_NK is not None:
        weight_M = weight_NK.flatten()[order].to(_wide(weight_NK.dtype))
    return ExpertOrder(order.int(), position.int(), chosen_M[order].int(), ends.int(), weight_M)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def expert_order_triton(
    chosen_NK: torch.Tensor, experts: int, weight_NK: torch.Tensor | None = None
) -> ExpertOrder:
    """``expert_order`` in two kernels: count within blocks, then place."""
    chosen_M = chosen_NK.contiguous()
    M = chosen_M.numel()
    blocks = -(-M // _BLOCK)
    E = next_power_of_2(experts)
    counts = torch.empty(blocks, E, dtype=torch.int32, device=chosen_M.device)
    order, position, expert = torch.empty(3, M, dtype=torch.int32, device=chosen_M.device)
    ends = torch.empty(experts, dtype=torch.int32, device=chosen_M.device)
    weight_M = None
    if weight_NK is not None:
        weight_NK = weight_NK.contiguous()
        weight_M = weight_NK.new_empty(M, dtype=_wide(weight_NK.dtype))
    _count[(blocks,)](chosen_M, counts, M, E=E, BLOCK=_BLOCK)
    _place[(blocks,)](
        chosen_M,
        weight_NK,
        counts,
        order,
        position,
        expert,
        ends,
        weight_M,
        M,
        blocks,
        experts,
        E=E,
        BLOCK=_BLOCK,
        BLOCKS=next_power_of_2(blocks),
    )
    return ExpertOrder(order, position, expert, ends, weight_M)


@jit
def _count(
    chosen: tl.tensor, counts: tl.tensor, M: tl.tensor, E: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """counts[b, e] = how many choices of block b are e."""
    block = tl.program_id(0)
    choice = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(chosen + choice, choice < M, other=-1)
    is_of = (expert[:, None] == tl.arange(0, E)[None, :]).to(tl.int32)
    tl.store(counts + block * E + tl.arange(0, E), tl.sum(is_of, 0))


@jit
def _place(
    chosen: tl.tensor,
    weight: tl.tensor,
    counts: tl.tensor,
    order: tl.tensor,
    position: tl.tensor,
    expert_of_row: tl.tensor,
    ends: tl.tensor,
    weight_of_row: tl.tensor,
    M: tl.tensor,
    blocks: tl.tensor,
    experts: tl.tensor,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """row = choices of smaller experts + equal ones in earlier blocks + equal ones before it."""
    block = tl.program_id(0)
    every_E = tl.arange(0, E)
    block_B = tl.arange(0, BLOCKS)[:, None]
    counts_BE = tl.load(counts + block_B * E + every_E[None, :], block_B < blocks, other=0)
    count_E = tl.sum(counts_BE, 0)
    end_E = tl.cumsum(count_E, 0)
    if block == 0:
        tl.store(ends + every_E, end_E, every_E < experts)
    earlier_E = tl.sum(tl.where(block_B < block, counts_BE, 0), 0)

    choice = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(chosen + choice, choice < M, other=-1).to(tl.int32)
    is_of = (expert[:, None] == every_E[None, :]).to(tl.int32)
    row_if_of = (end_E - count_E + earlier_E)[None, :] + tl.cumsum(is_of, 0) - 1
    row = tl.sum(is_of * row_if_of, 1)
    tl.store(position + choice, row, choice < M)
    tl.store(order + row, choice, choice < M)
    tl.store(expert_of_row + row, expert, choice < M)
    if weight is not None:
        value = tl.load(weight + choice, choice < M)
        tl.store(weight_of_row + row, value.to(weight_of_row.dtype.element_ty), choice < M)
