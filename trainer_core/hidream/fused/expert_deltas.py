"""As ``deltas``, for the routed experts: rows sorted by expert, and a delta for each expert.

Letters: M rows, E experts, c · D = in, a · K = out, r rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from trainer_core.adapters.factors import Factors
from trainer_core.hidream.fused.deltas import (
    DeltaKind,
    FactorGradients,
    dropped,
    is_joint_lokr,
)
from trainer_core.kernels.grouped_mm import grouped_mm, per_expert
from trainer_core.kernels.lokr_mix import mix_add_, mix_grad


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


def add_expert_deltas_(
    output_MN: torch.Tensor,
    input_MI: torch.Tensor,
    ends_E: torch.Tensor,
    places: Sequence[ExpertPlace],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Add each linear's delta to its columns, in place; returns the inner products.

    ``ends_E``: int32: the row after the last one of each expert. ``factors``: the experts' matrices
    stacked, [E, ...], for each place.
    """
    hidden = expert_inner_products(input_MI, ends_E, places, factors, seed)
    for place, each, inner in zip(places, factors, hidden, strict=True):
        columns = output_MN[:, place.start : place.stop]
        if place.kind == "lokr":
            mix_add_(columns, inner, each.first, ends_E)
        else:
            columns += grouped_mm(inner, each.second.transpose(-2, -1), ends_E)
    return hidden


def expert_inner_products(
    input_MI: torch.Tensor,
    ends_E: torch.Tensor,
    places: Sequence[ExpertPlace],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
) -> list[torch.Tensor]:
    """As ``deltas.inner_products``."""
    if is_joint_lokr(places, factors):
        return _lokr_inner(input_MI, ends_E, factors)
    hidden = []
    for place, each in zip(places, factors, strict=True):
        if place.kind == "lokr":
            hidden += _lokr_inner(input_MI, ends_E, [each])
        else:
            rows = dropped(input_MI, place.dropout, place.number, seed)
            hidden.append(grouped_mm(rows, each.first.transpose(-2, -1), ends_E))
    return hidden


def expert_delta_gradients_(
    grad_MN: torch.Tensor,
    input_MI: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    ends_E: torch.Tensor,
    places: Sequence[ExpertPlace],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor,
) -> list[FactorGradients]:
    """Gradients of the stacked factors; adds the deltas' part to ``grad_input_MI``, in place."""
    columns = [grad_MN[:, place.start : place.stop] for place in places]
    if is_joint_lokr(places, factors):
        return _lokr_gradients_(columns, input_MI, hidden, ends_E, factors, grad_input_MI)
    gradients = []
    for grad, place, each, inner in zip(columns, places, factors, hidden, strict=True):
        if place.kind == "lokr":
            gradients += _lokr_gradients_([grad], input_MI, [inner], ends_E, [each], grad_input_MI)
        else:
            gradients.append(
                _lora_gradients_(
                    grad.contiguous(), input_MI, inner, ends_E, place, each, seed, grad_input_MI
                )
            )
    return gradients


def _lokr_inner(
    input_MI: torch.Tensor, ends_E: torch.Tensor, factors: Sequence[Factors]
) -> list[torch.Tensor]:
    """X · W2ᵀ of each linear, [M, c, K]: views of one product."""
    (M, _), c = input_MI.shape, factors[0].first.shape[-1]
    widths = [each.second.shape[1] for each in factors]
    wide_EKD = _side_by_side(factors)
    rows = input_MI.view(M * c, -1)
    product = grouped_mm(rows, wide_EKD.transpose(-2, -1), ends_E * c)
    return list(torch.split(product.view(M, c, -1), widths, dim=-1))


def _lokr_gradients_(
    grads_MO: Sequence[torch.Tensor],
    input_MI: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    ends_E: torch.Tensor,
    factors: Sequence[Factors],
    grad_input_MI: torch.Tensor,
) -> list[FactorGradients]:
    M, c = hidden[0].shape[:2]
    widths = [each.second.shape[1] for each in factors]
    grad_hidden = input_MI.new_empty(M, c, sum(widths))
    parts = torch.split(grad_hidden, widths, dim=-1)
    firsts = [
        mix_grad(grad, inner, each.first, part, ends_E)[1]
        for grad, inner, each, part in zip(grads_MO, hidden, factors, parts, strict=True)
    ]
    flat_grad, rows, ends = grad_hidden.view(M * c, -1), input_MI.view(M * c, -1), ends_E * c
    grad_input_MI += grouped_mm(flat_grad, _side_by_side(factors), ends).view_as(input_MI)
    seconds = torch.split(_grouped_outer(flat_grad, rows, ends), widths, dim=1)
    return [FactorGradients(*each) for each in zip(firsts, seconds, strict=True)]


def _lora_gradients_(
    grad_MO: torch.Tensor,
    input_MI: torch.Tensor,
    inner_Mr: torch.Tensor,
    ends_E: torch.Tensor,
    place: ExpertPlace,
    factors: Factors,
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor,
) -> FactorGradients:
    grad_inner = grouped_mm(grad_MO, factors.second, ends_E)
    grad_rows = grouped_mm(grad_inner, factors.first, ends_E)
    # The gradient of dropout is dropout with the same draw.
    grad_input_MI += dropped(grad_rows, place.dropout, place.number, seed)
    rows = dropped(input_MI, place.dropout, place.number, seed)
    return FactorGradients(
        _grouped_outer(grad_inner, rows, ends_E), _grouped_outer(grad_MO, inner_Mr, ends_E)
    )


def _side_by_side(factors: Sequence[Factors]) -> torch.Tensor:
    """The second matrices of each expert below each other, [E, ΣK, D]."""
    seconds = [each.second for each in factors]
    return seconds[0] if len(seconds) == 1 else torch.cat(seconds, dim=1)


def _grouped_outer(
    left_MP: torch.Tensor, right_MQ: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """leftᵀ · right over the rows of each expert, [E, P, Q], at least fp32."""
    if left_MP.is_cuda:
        return functional.grouped_mm(left_MP.t(), right_MQ, offs=ends_E).float()
    pairs = zip(per_expert(left_MP, ends_E), per_expert(right_MQ, ends_E), strict=True)
    return torch.stack([left.t() @ right for left, right in pairs])
