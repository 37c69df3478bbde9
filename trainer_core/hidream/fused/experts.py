"""HiDream's experts as one step of autograd: route, sort, multiply in groups, combine.

The routing weight is multiplied into the inner activation, before w2: so the output of w2 is not
kept for the gradient of the gate, and a recomputed block need not compute it at all.

Letters: B samples, S tokens, N = B · S, F width, E experts, K experts chosen for a token,
M = N · K sorted rows, H inner width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from trainer_core.adapters.factors import AdapterFactors, Factors
from trainer_core.hidream.fused.deltas import FactorGradients
from trainer_core.hidream.fused.expert_deltas import (
    ExpertPlace,
    add_expert_deltas_,
    expert_delta_gradients_,
    expert_inner_products,
)
from trainer_core.hidream.fused.feed_forward import (
    FeedForward,
    FeedForwardFactors,
    Kept,
    backward_rows,
    forward_rows,
)
from trainer_core.hidream.fused.linears import flat
from trainer_core.hidream.fused.weights import (
    Weight,
    as_rows8,
    multiply_grouped,
    multiply_grouped_gradient,
)
from trainer_core.kernels.activation import Activation
from trainer_core.kernels.expert_order import ExpertOrder, expert_order
from trainer_core.kernels.expert_rows import (
    add_combined_rows,
    combine_rows,
    gather_rows,
    gather_rows8,
    gather_rows_to_8_bits,
)
from trainer_core.kernels.route import route, route_gradient
from trainer_core.kernels.swiglu import swiglu, swiglu_grad, swiglu_grad_to_8_bits, swiglu_to_8_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """A layer of routed experts and the shared one."""

    gate_EF: torch.Tensor
    choices: int
    """K."""
    up: Weight
    """w1 and w3 of each expert, [E, 2H, F]."""
    down: Weight
    """w2 of each expert, [E, F, H]."""
    shared: FeedForward
    places_up: tuple[ExpertPlace, ...] = ()
    places_down: tuple[ExpertPlace, ...] = ()

    def factors(self, adapter: AdapterFactors) -> "ExpertFactors":
        return ExpertFactors(
            _stacked(self.places_up, adapter),
            _stacked(self.places_down, adapter),
            self.shared.factors(adapter),
        )

    def links(self, adapter: AdapterFactors) -> list[torch.Tensor]:
        return [
            *_links(self.places_up, adapter),
            *_links(self.places_down, adapter),
            *self.shared.links(adapter),
        ]


class ExpertFactors(NamedTuple):
    """The adapters' matrices, [E, ...] for the routed experts."""

    up: list[Factors]
    down: list[Factors]
    shared: FeedForwardFactors


class Fed(NamedTuple):
    """The residual stream after a feed-forward, and how its tokens were routed."""

    hidden_BSF: torch.Tensor
    chosen_NK: torch.Tensor


def add_experts(
    layer: Experts,
    hidden_BSF: torch.Tensor,
    gate_BF: torch.Tensor,
    input_: Activation,
    adapter: AdapterFactors,
    *,
    keep_output: bool,
) -> Fed:
    """hidden + gate · (routed experts + shared expert)(input), and the chosen experts.

    ``keep_output``: as for ``feed_forward``. Gradients go to ``hidden``, ``gate``, the input and
    the adapter.
    """
    output, chosen = _AddExperts.apply(  # type: ignore[no-untyped-call]
        hidden_BSF,
        gate_BF,
        input_.value,
        input_,
        layer,
        layer.factors(adapter),
        keep_output or gate_BF.requires_grad,  # the gate's gradient needs the output
        *layer.links(adapter),
    )
    return Fed(output, chosen)


class _AddExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_BSF: torch.Tensor,
        gate_BF: torch.Tensor,
        value: torch.Tensor,
        input_: Activation,
        layer: Experts,
        factors: ExpertFactors,
        keep_output: bool,
        *_links: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = value.reshape(-1, value.shape[-1])
        activation = Activation(rows, input_.rows8, input_.scale)
        shared, kept_shared = forward_rows(
            layer.shared, activation, factors.shared, keep_output=keep_output
        )
        probability_NE, chosen_NK, weight_NK = route(rows, layer.gate_EF, layer.choices)
        order = expert_order(chosen_NK, len(layer.gate_EF), weight_NK)
        weight_M = order.weight
        assert weight_M is not None
        up, hidden_up = _up(layer, activation, order, factors)
        down, hidden_down = _down(layer, up, weight_M, order, factors, keep_output=keep_output)
        update, output = None, torch.empty_like(hidden_BSF)
        if keep_output:
            assert down is not None
            sorted_and_shared = (down, order.position, layer.choices, shared)
            hidden_NF = hidden_BSF.reshape(rows.shape)
            output = add_combined_rows(hidden_NF, gate_BF, *sorted_and_shared).view_as(hidden_BSF)
            if gate_BF.requires_grad:
                update = combine_rows(*sorted_and_shared).view_as(hidden_BSF)

        ctx.layer, ctx.factors, ctx.order = layer, factors, order
        ctx.counts = len(hidden_up), len(hidden_down), len(kept_shared.hidden_up)
        keeps_rows = bool(factors.up or factors.shared.up)
        ctx.save_for_backward(
            gate_BF,
            update,
            rows if keeps_rows else None,
            probability_NE,
            chosen_NK,
            weight_M,
            up,
            kept_shared.up,
            *hidden_up,
            *hidden_down,
            *kept_shared.hidden_up,
            *kept_shared.hidden_down,
        )
        ctx.mark_non_differentiable(chosen_NK)
        return output, chosen_NK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSF: torch.Tensor, _: Any) -> tuple[Any, ...]:
        gate_BF, update, rows, probability_NE, chosen_NK, weight_M, up, up_shared, *hidden = (
            ctx.saved_tensors
        )
        layer, factors, order = ctx.layer, ctx.factors, ctx.order
        ends = [sum(ctx.counts[: i + 1]) for i in range(3)]
        hidden_up, hidden_down = hidden[: ends[0]], hidden[ends[0] : ends[1]]
        kept_shared = Kept(up_shared, hidden[ends[1] : ends[2]], hidden[ends[2] :])
        grad_BSF = grad_BSF.contiguous()
        grad_NF = grad_BSF.view(-1, grad_BSF.shape[-1])
        grad_gate = None if update is None else (grad_BSF * update).sum(dim=1)

        grad_shared, shared_gradients = backward_rows(
            layer.shared, grad_NF, rows, kept_shared, factors.shared, gate_BF
        )
        routed = _routed_gradients(
            layer, factors, order, grad_NF, gate_BF, rows, up, weight_M, hidden_up, hidden_down
        )
        grad_logits = route_gradient(probability_NE, chosen_NK, routed.weight_M, order.position)
        grad_rows = combine_rows(
            routed.rows,
            order.position,
            layer.choices,
            grad_shared,
            grad_logits.to(grad_NF.dtype),
            layer.gate_EF,
        )
        return (
            grad_BSF,
            grad_gate,
            grad_rows.view_as(grad_BSF),
            None,
            None,
            None,
            None,
            *_unstacked([*routed.up, *routed.down]),
            *flat(shared_gradients),
        )


class _RoutedGradients(NamedTuple):
    rows: torch.Tensor
    """[M, F], sorted by expert."""
    weight_M: torch.Tensor
    up: list[FactorGradients]
    down: list[FactorGradients]


def _up(
    layer: Experts, input_: Activation, order: ExpertOrder, factors: ExpertFactors
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The sorted rows times w1 and w3 of their experts, with the adapters' part."""
    dtype, dtype8 = input_.value.dtype, layer.up.dtype8
    rows = None
    if factors.up or dtype8 is None:
        rows = gather_rows(input_.value, order.order, layer.choices)
    if dtype8 is not None:
        rows8, scale = gather_rows8(*as_rows8(input_, dtype8), order.order, layer.choices)
        up = multiply_grouped(layer.up, rows8, scale, order.ends, dtype)
    else:
        assert rows is not None
        up = multiply_grouped(layer.up, rows, None, order.ends, dtype)
    if not factors.up:
        return up, []
    assert rows is not None
    deltas = add_expert_deltas_(
        up, rows, order.ends, layer.places_up, factors.up, factors.shared.seed
    )
    return up, deltas


def _down(
    layer: Experts,
    up: torch.Tensor,
    weight_M: torch.Tensor,
    order: ExpertOrder,
    factors: ExpertFactors,
    *,
    keep_output: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """silu(a) · b · weight times w2 of each row's expert; None where nothing needs it.

    The inner products are then left out too: they are made for the gradients of w2.
    """
    if not keep_output:
        return None, []
    dtype8 = layer.down.dtype8
    inner: torch.Tensor | None
    if dtype8 is None:
        inner = swiglu(up, weight_M)
        down = multiply_grouped(layer.down, inner, None, order.ends, up.dtype)
    else:
        inner = up.new_empty(len(up), up.shape[1] // 2) if factors.down else None
        inner8, scale = swiglu_to_8_bits(up, weight_M, dtype=dtype8, value_MH=inner)
        down = multiply_grouped(layer.down, inner8, scale, order.ends, up.dtype)
    if not factors.down:
        return down, []
    assert inner is not None
    deltas = add_expert_deltas_(
        down, inner, order.ends, layer.places_down, factors.down, factors.shared.seed
    )
    return down, deltas


def _routed_gradients(
    layer: Experts,
    factors: ExpertFactors,
    order: ExpertOrder,
    grad_NF: torch.Tensor,
    gate_BF: torch.Tensor,
    rows_NF: torch.Tensor | None,
    up: torch.Tensor,
    weight_M: torch.Tensor,
    hidden_up: list[torch.Tensor],
    hidden_down: list[torch.Tensor],
) -> _RoutedGradients:
    dtype, choices = grad_NF.dtype, layer.choices
    grad_down = None
    if factors.down or not layer.down.is_8bit:
        grad_down = gather_rows(grad_NF, order.order, choices, gate_BF)
    if layer.down.dtype8 is not None:
        assert layer.down.scale is not None
        rows8, scale = gather_rows_to_8_bits(
            *(grad_NF, order.order, order.expert, choices, layer.down.scale, gate_BF),
            dtype=layer.down.dtype8,
        )
        grad_inner = multiply_grouped_gradient(layer.down, rows8, scale, order.ends, dtype)
    else:
        assert grad_down is not None
        grad_inner = multiply_grouped_gradient(layer.down, grad_down, None, order.ends, dtype)
    gradients_down: list[FactorGradients] = []
    if factors.down:
        assert grad_down is not None
        gradients_down = _down_gradients(
            layer, factors, order, grad_down, swiglu(up, weight_M), hidden_down, grad_inner
        )
    grad_up = None
    if layer.up.dtype8 is not None:
        assert layer.up.scale is not None
        grad_up = torch.empty_like(up) if factors.up else None
        rows8, scale, grad_weight = swiglu_grad_to_8_bits(
            *(grad_inner, up, weight_M, layer.up.scale, order.expert),
            dtype=layer.up.dtype8,
            value_M2H=grad_up,
        )
        grad_rows = multiply_grouped_gradient(layer.up, rows8, scale, order.ends, dtype)
    else:
        grad_up, grad_weight = swiglu_grad(grad_inner, up, weight_M)
        grad_rows = multiply_grouped_gradient(layer.up, grad_up, None, order.ends, dtype)
    assert grad_weight is not None
    gradients_up: list[FactorGradients] = []
    if factors.up:
        assert rows_NF is not None
        assert grad_up is not None
        gradients_up = expert_delta_gradients_(
            grad_up,
            gather_rows(rows_NF, order.order, choices),
            hidden_up,
            order.ends,
            layer.places_up,
            factors.up,
            factors.shared.seed,
            grad_rows,
        )
    return _RoutedGradients(grad_rows, grad_weight, gradients_up, gradients_down)


def _down_gradients(
    layer: Experts,
    factors: ExpertFactors,
    order: ExpertOrder,
    grad_down: torch.Tensor,
    inner: torch.Tensor,
    hidden_down: list[torch.Tensor],
    grad_inner: torch.Tensor,
) -> list[FactorGradients]:
    """Of the adapters of w2; adds their part to ``grad_inner``, in place."""
    adapted = order.ends, layer.places_down, factors.down, factors.shared.seed
    hidden = hidden_down or expert_inner_products(inner, *adapted)
    return expert_delta_gradients_(grad_down, inner, hidden, *adapted, grad_inner)


def _stacked(places: Sequence[ExpertPlace], adapter: AdapterFactors) -> list[Factors]:
    if not adapter.is_on:
        return []
    return [
        Factors(
            torch.stack([adapter.values[path].first for path in place.paths]),
            torch.stack([adapter.values[path].second for path in place.paths]),
        )
        for place in places
    ]


def _links(places: Sequence[ExpertPlace], adapter: AdapterFactors) -> list[torch.Tensor]:
    if not adapter.is_on:
        return []
    return [each for place in places for path in place.paths for each in adapter.links[path]]


def _unstacked(gradients: Sequence[FactorGradients]) -> list[torch.Tensor]:
    """In the order of ``_links``."""
    return [
        each
        for first_E, second_E in gradients
        for pair in zip(first_E.unbind(), second_E.unbind(), strict=True)
        for each in pair
    ]
