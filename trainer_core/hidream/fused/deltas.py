"""What an adapter adds to the products of linears that share one input, and its gradients.

LoKr: W1 · X · W2ᵀ for each row's X [c, D]; LoRA: B · A · x. A linear's ``first`` is w1 [a, c] or
A [r, in], its ``second`` is w2 [K, D] or B [out, r]. The adapter multiplies constant factors, and
LoKr's scalar, into w1 and B. Products are of the compute type, sums are fp32.

Letters: M rows, c · D = in, a · K = out, r rank.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from trainer_core.adapters.factors import Factors
from trainer_core.kernels.dropout import dropout
from trainer_core.kernels.lokr_mix import mix_add_, mix_grad

DeltaKind = Literal["lokr", "lora"]


class Place(NamedTuple):
    """Where one adapted linear stands in a product of several."""

    kind: DeltaKind
    start: int
    """First column of its output."""
    stop: int
    dropout: float = 0.0
    """Probability that an element of the input of ``first`` is dropped; LoRA only."""
    number: int = 0
    """Number of the linear in the adapter: each drops other elements."""


class FactorGradients(NamedTuple):
    """Gradients of the two matrices, at least fp32."""

    first: torch.Tensor
    second: torch.Tensor


def add_deltas_(
    output_MN: torch.Tensor,
    input_MI: torch.Tensor,
    places: Sequence[Place],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Add each linear's delta to its columns of ``output_MN``, in place.

    Returns the inner products, which the gradients need.
    """
    hidden = inner_products(input_MI, places, factors, seed)
    for place, each, inner in zip(places, factors, hidden, strict=True):
        columns = output_MN[:, place.start : place.stop]
        if place.kind == "lokr":
            mix_add_(columns, inner, each.first)
        else:
            columns.addmm_(inner, each.second.t())
    return hidden


def delta_gradients_(
    grad_MN: torch.Tensor,
    input_MI: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    places: Sequence[Place],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor | None,
) -> list[FactorGradients]:
    """Gradients of all factors; adds the deltas' part to ``grad_input_MI``, in place."""
    if is_joint_lokr(places, factors):
        return _joint_lokr_gradients_(grad_MN, input_MI, hidden, places, factors, grad_input_MI)
    gradients = []
    for place, each, inner in zip(places, factors, hidden, strict=True):
        columns = grad_MN[:, place.start : place.stop]
        if place.kind == "lokr":
            (one,) = _joint_lokr_gradients_(
                columns,
                input_MI,
                [inner],
                [Place("lokr", 0, place.stop - place.start)],
                [each],
                grad_input_MI,
            )
        else:
            one = _lora_gradients_(columns, input_MI, inner, place, each, seed, grad_input_MI)
        gradients.append(one)
    return gradients


class _OfKind(Protocol):
    @property
    def kind(self) -> DeltaKind: ...


def is_joint_lokr(places: Sequence[_OfKind], factors: Sequence[Factors]) -> bool:
    """Whether all linears see the input as the same matrix X, so that one product serves all."""
    return all(place.kind == "lokr" for place in places) and (
        len({each.second.shape[-1] for each in factors}) == 1
    )


def inner_products(
    input_MI: torch.Tensor,
    places: Sequence[Place],
    factors: Sequence[Factors],
    seed: torch.Tensor | None,
) -> list[torch.Tensor]:
    """X · W2ᵀ, [M, c, K], or x · Aᵀ, [M, r], of each linear; they may be views of one product."""
    if not places:
        return []
    if is_joint_lokr(places, factors):
        return _lokr_inner(input_MI, factors)
    hidden = []
    for place, each in zip(places, factors, strict=True):
        if place.kind == "lokr":
            hidden += _lokr_inner(input_MI, [each])
        else:
            hidden.append(dropped(input_MI, place.dropout, place.number, seed) @ each.first.t())
    return hidden


def _lokr_inner(input_MI: torch.Tensor, factors: Sequence[Factors]) -> list[torch.Tensor]:
    """X · W2ᵀ of each linear, [M, c, K]: views of one product."""
    D = factors[0].second.shape[1]
    wide = _stacked([each.second for each in factors])
    product = input_MI.view(-1, D) @ wide.t()
    product = product.view(len(input_MI), -1, wide.shape[0])
    return list(torch.split(product, [each.second.shape[0] for each in factors], dim=-1))


def _joint_lokr_gradients_(
    grad_MN: torch.Tensor,
    input_MI: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    places: Sequence[Place],
    factors: Sequence[Factors],
    grad_input_MI: torch.Tensor | None,
) -> list[FactorGradients]:
    M, c = hidden[0].shape[:2]
    D = factors[0].second.shape[1]
    widths = [each.second.shape[0] for each in factors]
    grad_hidden = input_MI.new_empty(M, c, sum(widths))
    firsts = []
    for place, each, inner, into in zip(
        places, factors, hidden, torch.split(grad_hidden, widths, dim=-1), strict=True
    ):
        columns = grad_MN[:, place.start : place.stop]
        _, grad_first = mix_grad(columns, inner, each.first, into)
        firsts.append(grad_first)
    flat_grad, flat_input = grad_hidden.view(M * c, -1), input_MI.view(M * c, D)
    if grad_input_MI is not None:
        wide = _stacked([each.second for each in factors])
        grad_input_MI.view(M * c, D).addmm_(flat_grad, wide)
    seconds = torch.split(wide_product(flat_grad.t(), flat_input), widths)
    return [FactorGradients(*each) for each in zip(firsts, seconds, strict=True)]


def _lora_gradients_(
    grad_MO: torch.Tensor,
    input_MI: torch.Tensor,
    inner_Mr: torch.Tensor,
    place: Place,
    factors: Factors,
    seed: torch.Tensor | None,
    grad_input_MI: torch.Tensor | None,
) -> FactorGradients:
    grad_inner = grad_MO @ factors.second
    if grad_input_MI is not None:
        if place.dropout == 0:
            grad_input_MI.addmm_(grad_inner, factors.first)
        else:
            # The gradient of dropout is dropout with the same draw.
            grad_input_MI.add_(
                dropped(grad_inner @ factors.first, place.dropout, place.number, seed)
            )
    first = wide_product(grad_inner.t(), dropped(input_MI, place.dropout, place.number, seed))
    return FactorGradients(first, wide_product(grad_MO.t(), inner_Mr))


def dropped(
    input_MI: torch.Tensor, probability: float, number: int, seed: torch.Tensor | None
) -> torch.Tensor:
    """The input of LoRA's first matrix in linear ``number``; without a seed nothing is dropped."""
    if probability == 0 or seed is None:
        return input_MI
    return dropout(input_MI, probability, seed, number)


def wide_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left · right with a result of at least fp32."""
    if left.is_cuda and left.dtype is torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).to(torch.promote_types(left.dtype, torch.float32))


def _stacked(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    return matrices[0] if len(matrices) == 1 else torch.cat(list(matrices))
