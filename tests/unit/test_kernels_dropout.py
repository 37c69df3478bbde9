"""Dropout without state: rates, repetition, independence, gradients."""

from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.dropout import dropout, dropout_plain, dropout_triton

Drop = Callable[[torch.Tensor, float, torch.Tensor, int], torch.Tensor]
BOTH: list[Drop] = [dropout_plain, dropout_triton]
SEED = torch.tensor(-5)
FIRST_MASK = 0xFFDF9FF98BBBEF7F
"""Bit i: whether Triton keeps element i, with ``SEED``, layer 0 and a probability of 0.3."""


@pytest.mark.parametrize("drop", BOTH)
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_mean_and_variance(probability: float, drop: Drop) -> None:
    ones = torch.ones(30_000)

    dropped = drop(ones, probability, SEED, 3)

    # Kept values are 1 / (1 − p), so the mean is 1 and the variance p / (1 − p).
    variance = probability / (1 - probability)
    assert abs(float(dropped.mean()) - 1) < 5 * (variance / len(ones)) ** 0.5
    assert float(dropped.var()) == pytest.approx(variance, rel=0.03)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - probability)])


@pytest.mark.parametrize("drop", BOTH)
def test_a_mask_depends_on_seed_layer_and_element_only(drop: Drop) -> None:
    x = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))

    def mask(x: torch.Tensor, seed: int, layer: int) -> torch.Tensor:
        return drop(x, 0.5, torch.tensor(seed), layer) != 0

    first = mask(x, 1, 0)
    assert torch.equal(mask(x.flatten() + 9, 1, 0).view(3, 4000), first)
    others = [mask(x, 1, 1), mask(x, 2, 0), mask(x, 1 + 2**32, 0), mask(x, -1, 0)]
    for other in others:
        # Half of the elements agree by chance, give or take 5 of their standard deviations.
        assert abs(float((other == first).double().mean()) - 0.5) < 0.025
    assert abs(float((first[0] == first[1]).double().mean()) - 0.5) < 0.04


def test_elements_beyond_one_program_are_drawn_alike() -> None:
    long, short = torch.ones(5000), torch.ones(3000)

    assert torch.equal(
        dropout_triton(long, 0.3, SEED, 2)[:3000], dropout_triton(short, 0.3, SEED, 2)
    )


@pytest.mark.parametrize("drop", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_has_the_same_mask(dtype: torch.dtype, drop: Drop) -> None:
    x = torch.ones(5, 700, dtype=dtype, requires_grad=True)

    dropped = drop(x, 0.25, SEED, 1)
    dropped.backward(torch.full_like(x, 3.0))

    assert torch.equal(x.grad, (dropped != 0) * torch.tensor(4.0, dtype=dtype))


def test_only_the_seed_is_kept_for_the_gradient() -> None:
    kept: list[torch.Tensor] = []
    x = torch.ones(5, 700, requires_grad=True)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout_triton(x, 0.25, SEED, 1)

    assert [each.shape for each in kept] == [()]


def test_a_probability_of_zero_drops_nothing() -> None:
    x = torch.randn(10, generator=torch.Generator().manual_seed(0))

    assert torch.equal(dropout(x, 0.0, SEED, 1), x)


def test_the_draws_never_change() -> None:
    kept = dropout_triton(torch.ones(64), 0.3, SEED, 0) != 0

    assert sum(int(bit) << i for i, bit in enumerate(kept.tolist())) == FIRST_MASK
