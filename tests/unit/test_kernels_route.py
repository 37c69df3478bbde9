"""The choice of experts: against PyTorch and diffusers, with ties, and its gradient."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from torch.nn import functional

from trainer_core.kernels.expert_order import expert_order_plain
from trainer_core.kernels.route import (
    Route,
    route,
    route_gradient,
    route_gradient_plain,
    route_gradient_triton,
    route_plain,
    route_triton,
)

Router = Callable[[torch.Tensor, torch.Tensor, int], Route]
ALL: list[Router] = [route, route_plain, route_triton]
SHAPES = [(1, 1, 1, 1), (5, 37, 3, 1), (33, 64, 4, 2), (19, 300, 5, 3), (16, 16, 16, 16)]
"""N, F, E, K."""


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("router", ALL)
def test_the_most_probable_experts_are_chosen(
    router: Router, shape: tuple[int, int, int, int]
) -> None:
    N, F, E, K = shape
    wide, gate = normal(N, 2 * F), normal(E, F) / F**0.5
    rows = wide[:, F:]

    probability, chosen, weight = router(rows, gate, K)

    wanted = functional.linear(rows.double(), gate.double()).softmax(-1)
    largest = wanted.topk(K, dim=-1)
    assert chosen.dtype == torch.int64
    torch.testing.assert_close(probability.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.double(), largest.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(chosen, largest.indices)
    assert torch.equal(probability.gather(1, chosen), weight)


@pytest.mark.parametrize("router", ALL)
def test_of_equal_experts_the_first_is_chosen(router: Router) -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    gate = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])

    chosen = router(rows, gate, 3).chosen_NK

    assert chosen.tolist() == [[1, 3, 0], [0, 2, 1], [0, 1, 2]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("router", ALL)
def test_a_token_that_is_not_finite_has_experts(router: Router, bad: float) -> None:
    rows, gate = normal(3, 8), normal(5, 8)
    rows[1, 4] = bad

    probability, chosen, weight = router(rows, gate, 2)

    assert chosen[1].tolist() == [0, 1]
    assert weight[1].isnan().all()
    assert probability[[0, 2]].isfinite().all()


def test_the_choice_is_that_of_diffusers() -> None:
    gate = MoEGate(embed_dim=48, num_routed_experts=4, num_activated_experts=2, aux_loss_alpha=0)
    rows = normal(50, 48)

    chosen, weight, _ = gate(rows[None])
    routed = route(rows, gate.weight.detach(), 2)

    assert torch.equal(chosen.sort().values, routed.chosen_NK.sort().values)
    assert torch.equal(weight.sort().values, routed.weight_NK.sort().values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", [route_gradient, route_gradient_plain, route_gradient_triton])
def test_the_gradient_of_the_logits(
    gradient: Callable[..., torch.Tensor], shape: tuple[int, int, int, int]
) -> None:
    N, _, E, K = shape
    logits = normal(N, E, dtype=torch.float64).requires_grad_()
    probability = logits.softmax(dim=-1)
    weight, chosen = probability.topk(K, dim=-1)
    position = expert_order_plain(chosen, E).position
    grad_M = normal(N * K)
    weight.backward(grad_M[position.long()].view(N, K).double())

    found = gradient(probability.detach().float(), chosen, grad_M, position)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), logits.grad, rtol=1e-5, atol=1e-6)


def test_float64_stays_exact() -> None:
    rows, gate = normal(7, 20, dtype=torch.float64), normal(4, 20, dtype=torch.float64)
    rows.requires_grad_()
    probability, chosen, weight = route(rows, gate, 2)
    position = expert_order_plain(chosen, 4).position
    grad_M = normal(14, dtype=torch.float64)
    weight.backward(grad_M[position.long()].view(7, 2))

    found = route_gradient(probability.detach(), chosen, grad_M, position)

    torch.testing.assert_close(found @ gate, rows.grad, rtol=1e-12, atol=1e-14)
