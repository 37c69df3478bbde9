"""As ``deltas``, for the routed experts: rows sorted by expert, and a delta for each expert.

Letters: M rows, E experts, c · D = in, a · K = out, r rank.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from trainer_core.adapters.factors import Factors
from trainer_core.hidream.fused.deltas import DeltaKind, FactorGradients, dropped
from trainer_core.hidream.fused.weights import grouped_mm, per_expert


class ExpertPlace(NamedTuple):
    """Where the linear of one name stands in the product of all experts."""

    kind: DeltaKind
    start: int
    stop: int
    paths: tuple[str, ...]
    """The linear's path in each expert; all are adapted with matrices of the same shape."""
    dropout: float = 0.0
    """As of ``deltas.Place``."""
    number: int = 0
    """That of the first expert's linear: the rows of all experts are drawn together."""


class Routed(NamedTuple):
    """Which rows belong to which expert."""

    ends_E: torch.Tensor
    """int32: the row after the last one of each expert."""
    expert_M: torch.Tensor
    """The expert of each row."""


def add_expert_deltas_(
    output_MN: torch.Tensor,
    input_MI: torch.Tensor,
    routed: Routed,
    places: tuple[ExpertPlace, ...],
    factors: list[Factors],
    seed: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Add each linear's delta to its columns, in place; returns the inner products.

    ``factors``: the experts' matrices stacked, [E, ...], for each place.
    """
    hidden = []
    for place, (first, second) in zip(places, factors, strict=True):
        columns = output_MN[:, place.start : place.stop]
        if place.kind == "lora":
            rows = dropped(input_MI, place.dropout, place.number, seed)
            inner = grouped_mm(rows, first.transpose(-2, -1), routed.ends_E)
            columns += grouped_mm(inner, second.transpose(-2, -1), routed.ends_E)
        else:
            (M, _), c = input_MI.shape, first.shape[2]
            rows = input_MI.reshape(M * c, -1)
            inner = grouped_mm(rows, second.transpose(-2, -1), routed.ends_E * c)
            inner = inner.view(M, c, -1)
            columns += torch.bmm(first[routed.expert_M], inner).flatten(1)
        hidden.append(inner)
    return hidden


def expert_delta_gradients_(
    grad_MN: torch.Tensor,
    input_MI: torch.Tensor,
    hidden: list[torch.Tensor],
    routed: Routed,
    places: tuple[ExpertPlace, ...],
    factors: list[Factors],
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor,
) -> list[FactorGradients]:
    """Gradients of the stacked factors; adds the deltas' part to ``grad_input_MI``, in place."""
    gradients = []
    for place, each, inner in zip(places, factors, hidden, strict=True):
        grad = grad_MN[:, place.start : place.stop].contiguous()
        if place.kind == "lora":
            one = _lora_gradients_(grad, input_MI, inner, routed, place, each, seed, grad_input_MI)
        else:
            one = _lokr_gradients_(grad, input_MI, inner, routed, each, grad_input_MI)
        gradients.append(one)
    return gradients


def _lora_gradients_(
    grad_MO: torch.Tensor,
    input_MI: torch.Tensor,
    inner_Mr: torch.Tensor,
    routed: Routed,
    place: ExpertPlace,
    factors: Factors,
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor,
) -> FactorGradients:
    grad_inner = grouped_mm(grad_MO, factors.second, routed.ends_E)
    grad_rows = grouped_mm(grad_inner, factors.first, routed.ends_E)
    # The gradient of dropout is dropout with the same draw.
    grad_input_MI += dropped(grad_rows, place.dropout, place.number, seed)
    rows = dropped(input_MI, place.dropout, place.number, seed)
    return FactorGradients(
        _grouped_outer(grad_inner, rows, routed.ends_E),
        _grouped_outer(grad_MO, inner_Mr, routed.ends_E),
    )


def _lokr_gradients_(
    grad_MO: torch.Tensor,
    input_MI: torch.Tensor,
    inner_McK: torch.Tensor,
    routed: Routed,
    factors: Factors,
    grad_input_MI: torch.Tensor,
) -> FactorGradients:
    first, second = factors
    M, c, _ = inner_McK.shape
    grad_MaK = grad_MO.view(M, first.shape[1], -1)
    grad_inner = torch.bmm(first.transpose(1, 2)[routed.expert_M], grad_MaK).view(M * c, -1)
    rows, ends = input_MI.reshape(M * c, -1), routed.ends_E * c
    grad_input_MI += grouped_mm(grad_inner, second, ends).view_as(input_MI)
    outer = torch.bmm(grad_MaK, inner_McK.transpose(1, 2)).flatten(1)
    wide = torch.promote_types(outer.dtype, torch.float32)
    # A sum over the rows of each expert, as one product: no atomic additions.
    own_EM = functional.one_hot(routed.expert_M.long(), len(first)).to(wide).t()
    return FactorGradients(
        (own_EM @ outer.to(wide)).view(len(first), *first.shape[1:]),
        _grouped_outer(grad_inner, rows, ends),
    )


def _grouped_outer(
    left_MP: torch.Tensor, right_MQ: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """leftᵀ · right over the rows of each expert, [E, P, Q], at least fp32."""
    if left_MP.is_cuda:
        return functional.grouped_mm(left_MP.t(), right_MQ, offs=ends_E).float()
    pairs = zip(per_expert(left_MP, ends_E), per_expert(right_MQ, ends_E), strict=True)
    return torch.stack([left.t() @ right for left, right in pairs])
