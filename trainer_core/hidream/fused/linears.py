"""Linear layers that share one input: one wide product, with the adapters of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer_core.adapters.factors import AdapterFactors, Factors
from trainer_core.hidream.fused.deltas import (
    FactorGradients,
    Place,
    add_deltas_,
    delta_gradients_,
)
from trainer_core.hidream.fused.weights import Weight, multiply, multiply_gradient
from trainer_core.kernels.activation import Activation


@dataclass(frozen=True, kw_only=True, slots=True)
class Linears:
    """Frozen linears with one input, their outputs side by side, and the adapted ones of them."""

    weight: Weight
    places: tuple[Place, ...] = ()
    """Where each adapted linear stands."""
    paths: tuple[str, ...] = ()
    """Path of each adapted linear."""

    def factors(self, adapter: AdapterFactors) -> list[Factors]:
        """The matrices of the adapted linears; none where the adapter is off."""
        return [adapter.values[path] for path in self.paths] if adapter.is_on else []

    def links(self, adapter: AdapterFactors) -> list[torch.Tensor]:
        """The tensors that the gradients of ``factors`` go to, two for each linear."""
        if not adapter.is_on:
            return []
        return [each for path in self.paths for each in adapter.links[path]]


def product(linears: Linears, input_: Activation, adapter: AdapterFactors) -> torch.Tensor:
    """[..., in] → [..., out of all linears], with gradients to the input and to the adapter."""
    value = input_.value
    output: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        value,
        input_,
        linears,
        linears.factors(adapter),
        adapter.seed,
        *linears.links(adapter),
    )
    return output.view(*value.shape[:-1], output.shape[-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        input_: Activation,
        linears: Linears,
        factors: Sequence[Factors],
        seed: torch.Tensor | None,
        *_links: torch.Tensor,
    ) -> torch.Tensor:
        rows = value.reshape(-1, value.shape[-1])
        places = linears.places if factors else ()
        output = multiply(linears.weight, Activation(rows, input_.rows8, input_.scale))
        hidden = add_deltas_(output, rows, places, factors, seed)
        ctx.linears, ctx.places, ctx.factors, ctx.seed = linears, places, factors, seed
        ctx.shape = value.shape
        if places:
            ctx.save_for_backward(rows, *hidden)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MN: torch.Tensor) -> tuple[Any, ...]:
        grad_MN = grad_MN.contiguous()
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = multiply_gradient(ctx.linears.weight, grad_MN)
        gradients: list[FactorGradients] = []
        if ctx.places:
            rows, *hidden = ctx.saved_tensors
            gradients = delta_gradients_(
                grad_MN, rows, hidden, ctx.places, ctx.factors, ctx.seed, grad_input
            )
        if grad_input is not None:
            grad_input = grad_input.view(ctx.shape)
        return grad_input, None, None, None, None, *flat(gradients)


def flat(gradients: Sequence[FactorGradients]) -> list[torch.Tensor]:
    """In the order of ``Linears.links``."""
    return [each for pair in gradients for each in pair]
