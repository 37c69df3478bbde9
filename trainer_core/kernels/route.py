"""Chooses the experts of each token, and the gradient of that choice.

Source: ``MoEGate`` of diffusers 0.42.1, softmax(rows · gateᵀ) and its largest elements, with the
routing weights as they are: their sum is not 1.

Letters: N tokens, F width, E experts, K experts chosen for a token, M = N · K rows sorted by
expert.
"""

from typing import Final, NamedTuple

import torch
from torch.nn import functional

from trainer_core.kernels.triton_support import jit, next_power_of_2, packed, runs_triton, tl

_TOKENS: Final = 16
"""Tokens of a program: the least rows of a product in Triton. Few, so that all of a card works."""
_COLUMNS: Final = 256
_GRADIENT_TOKENS: Final = 64


class Route(NamedTuple):
    """The outputs of ``route``."""

    probability_NE: torch.Tensor
    chosen_NK: torch.Tensor
    """int64, the most probable expert first; of equal ones that with the lowest number."""
    weight_NK: torch.Tensor
    """The probability of the chosen experts."""


def route(rows_NF: torch.Tensor, gate_EF: torch.Tensor, choices: int) -> Route:
    """Probabilities of the experts, and the ``choices`` most probable ones.

    The logits and the probabilities are rounded to the type of the rows, where PyTorch rounds them.
    A token that is not finite gets experts too, and weights that are not a number. On CUDA it has
    no gradient; see ``route_gradient``.

    Args:
        rows_NF: the tokens.
        gate_EF: the gate's weight, in the same type. A program holds it for all experts, so their
            number is small: 4 in HiDream-I1.
        choices: K.
    """
    compute = route_triton if runs_triton(rows_NF) else route_plain
    return compute(rows_NF, gate_EF, choices)


def route_plain(rows_NF: torch.Tensor, gate_EF: torch.Tensor, choices: int) -> Route:
    """``route`` in PyTorch."""
    probability_NE = functional.linear(rows_NF, gate_EF).softmax(dim=-1)
    # topk does not say which of equal elements it takes.
    weight_NE, expert_NE = probability_NE.sort(dim=-1, descending=True, stable=True)
    return Route(probability_NE, expert_NE[:, :choices], weight_NE[:, :choices])


def route_triton(rows_NF: torch.Tensor, gate_EF: torch.Tensor, choices: int) -> Route:
    """``route`` in one kernel."""
    rows_NF = packed(rows_NF)
    (N, F), E = rows_NF.shape, len(gate_EF)
    out = Route(
        rows_NF.new_empty(N, E),
        rows_NF.new_empty(N, choices, dtype=torch.int64),
        rows_NF.new_empty(N, choices),
    )
    route_tokens[(-(-N // _TOKENS),)](
        rows_NF,
        gate_EF.contiguous(),
        *out,
        rows_NF.stride(0),
        N,
        F,
        E=E,
        K=choices,
        TOKENS=_TOKENS,
        EXPERTS=max(next_power_of_2(E), 8),
        COLUMNS=min(_COLUMNS, max(next_power_of_2(F), 16)),
        num_warps=4,
        num_stages=4,
    )
    return out


def route_gradient(
    probability_NE: torch.Tensor,
    chosen_NK: torch.Tensor,
    grad_weight_M: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """The gradient of the logits, [N, E], at least fp32.

    With g_e the gradient of expert e's weight, or 0 where it is not chosen, and p the probability:
    p_e · (g_e − Σ_i p_i · g_i).

    Args:
        probability_NE, chosen_NK: as ``route`` returned them.
        grad_weight_M: the gradients of the weights in the order of the sorted rows, as
            ``ExpertOrder.weight`` has them.
        position: [M], int32: the sorted row of each choice, as in ``ExpertOrder``.
    """
    compute = route_gradient_triton if runs_triton(probability_NE) else route_gradient_plain
    return compute(probability_NE, chosen_NK, grad_weight_M, position)


def route_gradient_plain(
    probability_NE: torch.Tensor,
    chosen_NK: torch.Tensor,
    grad_weight_M: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """``route_gradient`` in PyTorch."""
    wide_NE = probability_NE.to(torch.promote_types(probability_NE.dtype, torch.float32))
    grad_NK = grad_weight_M[position].view_as(chosen_NK).to(wide_NE.dtype)
    grad_NE = torch.zeros_like(wide_NE).scatter(1, chosen_NK, grad_NK)
    weighted_NE = wide_NE * grad_NE
    return weighted_NE - wide_NE * weighted_NE.sum(dim=-1, keepdim=True)


def route_gradient_triton(
    probability_NE: torch.Tensor,
    chosen_NK: torch.Tensor,
    grad_weight_M: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """``route_gradient`` in one kernel."""
    (N, E), K = probability_NE.shape, chosen_NK.shape[1]
    grad_logits_NE = torch.empty_like(probability_NE, dtype=torch.float32)
    _gradient[(-(-N // _GRADIENT_TOKENS),)](
        probability_NE.contiguous(),
        chosen_NK.contiguous(),
        grad_weight_M.contiguous(),
        position,
        grad_logits_NE,
        N,
        E=E,
        K=K,
        TOKENS=_GRADIENT_TOKENS,
        EXPERTS=next_power_of_2(E),
        num_warps=1,
    )
    return grad_logits_NE


@jit
def route_tokens(
    rows: tl.tensor,
    gate: tl.tensor,
    probability: tl.tensor,
    chosen: tl.tensor,
    weight: tl.tensor,
    rows_stride: tl.tensor,
    N: tl.tensor,
    F: tl.tensor,
    E: tl.constexpr,
    K: tl.constexpr,
    TOKENS: tl.constexpr,
    EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """A block of tokens: logits as a product with all experts, softmax, and K times the maximum."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows_T = rows + token.to(tl.int64)[:, None] * rows_stride
    expert = tl.arange(0, EXPERTS)
    inside_T = (token < N)[:, None]
    is_expert_E = (expert < E)[None, :]
    out_type = rows.dtype.element_ty
    logits_TE = tl.zeros((TOKENS, EXPERTS), tl.float32)
    for start in range(0, F, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        rows_TF = tl.load(rows_T + column, inside_T & (column < F), other=0.0)
        gate_EF = tl.load(
            gate + expert[:, None] * F + column, (expert < E)[:, None] & (column < F), other=0.0
        )
        logits_TE = tl.dot(rows_TF, tl.trans(gate_EF), logits_TE, input_precision="ieee")
    logits_TE = tl.where(is_expert_E, logits_TE.to(out_type).to(tl.float32), float("-inf"))
    share_TE = tl.exp(logits_TE - tl.max(logits_TE, 1)[:, None])
    probability_TE = (share_TE / tl.sum(share_TE, 1)[:, None]).to(out_type)
    at_TE = token[:, None] * E + expert[None, :]
    tl.store(probability + at_TE, probability_TE, inside_T & is_expert_E)

    value_TE = probability_TE.to(tl.float32)
    # What is not a number comes first, as in PyTorch's sort, and an expert is chosen once only.
    rank_TE = tl.where(value_TE <= 1.0, value_TE, 2.0)
    rank_TE = tl.where(is_expert_E, rank_TE, -1.0)
    for k in tl.static_range(K):
        is_largest_TE = rank_TE == tl.max(rank_TE, 1)[:, None]
        first_T = tl.min(tl.where(is_largest_TE, expert[None, :], EXPERTS), 1)
        is_first_TE = expert[None, :] == first_T[:, None]
        first_value_T = tl.sum(tl.where(is_first_TE, value_TE, 0.0), 1)
        tl.store(chosen + token * K + k, first_T.to(tl.int64), token < N)
        tl.store(weight + token * K + k, first_value_T.to(out_type), token < N)
        rank_TE = tl.where(is_first_TE, -1.0, rank_TE)


@jit
def _gradient(
    probability: tl.tensor,
    chosen: tl.tensor,
    grad_weight: tl.tensor,
    position: tl.tensor,
    grad_logits: tl.tensor,
    N: tl.tensor,
    E: tl.constexpr,
    K: tl.constexpr,
    TOKENS: tl.constexpr,
    EXPERTS: tl.constexpr,
) -> None:
    """grad_logits = p · (g − Σ p · g) for a block of tokens."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    expert = tl.arange(0, EXPERTS)[None, :]
    at_TE = token[:, None] * E + expert
    inside_TE = (token < N)[:, None] & (expert < E)
    p_TE = tl.load(probability + at_TE, inside_TE, other=0.0).to(tl.float32)
    g_TE = tl.zeros((TOKENS, EXPERTS), tl.float32)
    for k in tl.static_range(K):
        choice = token * K + k
        chosen_T = tl.load(chosen + choice, token < N, other=0)
        row_T = tl.load(position + choice, token < N, other=0)
        grad_T = tl.load(grad_weight + row_T, token < N, other=0.0).to(tl.float32)
        g_TE += tl.where(expert == chosen_T[:, None], grad_T[:, None], 0.0)
    weighted_TE = p_TE * g_TE
    grad_TE = weighted_TE - p_TE * tl.sum(weighted_TE, 1)[:, None]
    tl.store(grad_logits + at_TE, grad_TE, inside_TE)
