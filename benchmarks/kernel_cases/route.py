"""The choice of experts, and its gradient."""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.expert_order import expert_order_plain
from trainer_core.kernels.route import (
    route_gradient_plain,
    route_gradient_triton,
    route_plain,
    route_triton,
)

E, K, F = 4, 2, 2560


def _route(tokens: int) -> Case:
    def make(draw: Draw) -> Inputs:
        return draw(tokens, F), draw(E, F, factor=0.03)

    def kernel(rows: torch.Tensor, gate: torch.Tensor) -> list[torch.Tensor]:
        routed = route_triton(rows, gate, K)
        return [routed.probability_NE, routed.weight_NK]

    def plain(rows: torch.Tensor, gate: torch.Tensor) -> list[torch.Tensor]:
        # Not the numbers of the experts: rounding may exchange those of nearly equal weights.
        routed = route_plain(rows, gate, K)
        return [routed.probability_NE, routed.weight_NK]

    return Case(
        name="route",
        shape=f"{tokens}x{F}, {K} of {E}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=tokens * (2 * F + 2 * E + 10 * K) + 2 * E * F,
    )


def _gradient(tokens: int) -> Case:
    def make(draw: Draw) -> Inputs:
        probability = draw(tokens, E).softmax(dim=-1)
        chosen = probability.topk(K, dim=-1).indices
        position = expert_order_plain(chosen, E).position
        return probability, chosen, draw(tokens * K, dtype=torch.float32), position

    return Case(
        name="route, gradient",
        shape=f"{tokens}x{E}",
        make=make,
        kernel=lambda *inputs: [route_gradient_triton(*inputs)],
        plain=lambda *inputs: [route_gradient_plain(*inputs)],
        forward_bytes=tokens * (6 * E + 16 * K),
    )


CASES = [_route(4352), _route(4480), _gradient(4352)]
