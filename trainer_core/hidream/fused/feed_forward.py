"""HiDream's feed-forward, w2 · (silu(w1 · x) · (w3 · x)), as one step of autograd.

Kept for the backward pass: the output of w1 and w3, and what the adapters need.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from trainer_core.adapters.factors import AdapterFactors, Factors
from trainer_core.hidream.fused.deltas import (
    FactorGradients,
    add_deltas_,
    delta_gradients_,
    inner_products,
)
from trainer_core.hidream.fused.linears import Linears, flat
from trainer_core.hidream.fused.weights import (
    multiply,
    multiply_gradient,
    multiply_rows8_gradient,
)
from trainer_core.kernels.activation import Activation
from trainer_core.kernels.gated_rows import gate_rows
from trainer_core.kernels.swiglu import swiglu, swiglu_grad, swiglu_grad_to_8_bits, swiglu_to_8_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedForward:
    """The linears of a feed-forward."""

    up: Linears
    """w1 and w3, side by side."""
    down: Linears
    """w2."""

    def factors(self, adapter: AdapterFactors) -> "FeedForwardFactors":
        return FeedForwardFactors(
            self.up.factors(adapter), self.down.factors(adapter), adapter.seed
        )

    def links(self, adapter: AdapterFactors) -> list[torch.Tensor]:
        return [*self.up.links(adapter), *self.down.links(adapter)]


class FeedForwardFactors(NamedTuple):
    """The adapters' matrices of both products; empty where the adapter is off."""

    up: Sequence[Factors]
    down: Sequence[Factors]
    seed: torch.Tensor | None


class Kept(NamedTuple):
    """What the gradients need, beside the input of adapted linears."""

    up: torch.Tensor
    """[M, 2H]: w1 · x and w3 · x."""
    hidden_up: list[torch.Tensor]
    hidden_down: list[torch.Tensor]
    """Of w2; none where its output was left out: they are then made for its gradients."""


def feed_forward(
    layer: FeedForward, input_: Activation, adapter: AdapterFactors, *, keep_output: bool
) -> torch.Tensor:
    """[..., in] → [..., out], with gradients to the input and to the adapter.

    ``keep_output``: False while a block is recomputed for its gradients, which do not need the
    output. The last product is then left out, and the output holds no values.
    """
    output: torch.Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]
        input_.value, input_, layer, layer.factors(adapter), keep_output, *layer.links(adapter)
    )
    return output


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        input_: Activation,
        layer: FeedForward,
        factors: FeedForwardFactors,
        keep_output: bool,
        *_links: torch.Tensor,
    ) -> torch.Tensor:
        rows = value.reshape(-1, value.shape[-1])
        activation = Activation(rows, input_.rows8, input_.scale)
        output, kept = forward_rows(layer, activation, factors, keep_output=keep_output)
        ctx.layer, ctx.factors, ctx.shape = layer, factors, value.shape
        ctx.hidden_up = len(kept.hidden_up)
        input_rows = rows if factors.up else None
        ctx.save_for_backward(input_rows, kept.up, *kept.hidden_up, *kept.hidden_down)
        return output.view(*value.shape[:-1], output.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        rows, up, *hidden = ctx.saved_tensors
        kept = Kept(up, hidden[: ctx.hidden_up], hidden[ctx.hidden_up :])
        grad_MN = grad.reshape(-1, grad.shape[-1])
        grad_input, gradients = backward_rows(ctx.layer, grad_MN, rows, kept, ctx.factors)
        return grad_input.view(ctx.shape), None, None, None, None, *flat(gradients)


def forward_rows(
    layer: FeedForward,
    input_: Activation,
    factors: FeedForwardFactors,
    *,
    keep_output: bool,
) -> tuple[torch.Tensor, Kept]:
    """The output [M, out] of rows [M, in], without autograd, and what the gradients need."""
    places_up = layer.up.places if factors.up else ()
    up = multiply(layer.up.weight, input_)
    hidden_up = add_deltas_(up, input_.value, places_up, factors.up, factors.seed)
    if not keep_output:
        output = input_.value.new_empty(len(up), layer.down.weight.out_features)
        return output, Kept(up, hidden_up, [])
    inner = _inner(layer, up, has_value=bool(factors.down))
    output = multiply(layer.down.weight, inner)
    hidden_down: list[torch.Tensor] = []
    if factors.down:
        places_down = layer.down.places
        hidden_down = add_deltas_(output, inner.value, places_down, factors.down, factors.seed)
    return output, Kept(up, hidden_up, hidden_down)


def _inner(layer: FeedForward, up: torch.Tensor, *, has_value: bool) -> Activation:
    """silu(a) · b, [M, H], as w2 is multiplied with it; in 8 bits alone unless ``has_value``."""
    dtype8 = layer.down.weight.dtype8
    if dtype8 is None:
        return Activation(swiglu(up))
    value = up.new_empty(len(up), up.shape[1] // 2) if has_value else None
    rows8, scale = swiglu_to_8_bits(up, dtype=dtype8, value_MH=value)
    return Activation(up if value is None else value, rows8, scale)  # ``up`` only tells the type


def backward_rows(
    layer: FeedForward,
    grad_MN: torch.Tensor,
    input_MI: torch.Tensor | None,
    kept: Kept,
    factors: FeedForwardFactors,
    gate_BN: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[FactorGradients]]:
    """The gradient [M, in] of the rows, and those of the factors; ``up`` before ``down``.

    ``gate_BN``: multiplies the gradient of each sample's rows first; None: 1.
    """
    dtype = grad_MN.dtype
    if factors.down and gate_BN is not None:
        grad_MN, gate_BN = gate_rows(grad_MN, gate_BN), None
    grad_inner = multiply_gradient(layer.down.weight, grad_MN, gate_BN)
    gradients_down: list[FactorGradients] = []
    if factors.down:
        gradients_down = _down_gradients(layer, grad_MN, kept, factors, grad_inner)
    scale_N, dtype8 = layer.up.weight.scale, layer.up.weight.dtype8
    grad_up: torch.Tensor | None
    if scale_N is None or dtype8 is None:
        grad_up, _ = swiglu_grad(grad_inner, kept.up)
        grad_input = multiply_gradient(layer.up.weight, grad_up)
    else:
        grad_up = torch.empty_like(kept.up) if factors.up else None
        rows8, scale, _ = swiglu_grad_to_8_bits(
            grad_inner, kept.up, None, scale_N, dtype=dtype8, value_M2H=grad_up
        )
        grad_input = multiply_rows8_gradient(layer.up.weight, rows8, scale, dtype=dtype)
    gradients_up: list[FactorGradients] = []
    if factors.up:
        assert input_MI is not None
        assert grad_up is not None
        gradients_up = delta_gradients_(
            grad_up,
            input_MI,
            kept.hidden_up,
            layer.up.places,
            factors.up,
            factors.seed,
            grad_input,
        )
    return grad_input, [*gradients_up, *gradients_down]


def _down_gradients(
    layer: FeedForward,
    grad_MN: torch.Tensor,
    kept: Kept,
    factors: FeedForwardFactors,
    grad_inner: torch.Tensor,
) -> list[FactorGradients]:
    """Of the adapter of w2; adds its part to ``grad_inner``, in place."""
    inner = swiglu(kept.up)
    adapted = layer.down.places, factors.down, factors.seed
    hidden = kept.hidden_down or inner_products(inner, *adapted)
    return delta_gradients_(grad_MN, inner, hidden, *adapted, grad_inner)
