"""Stochastic rounding to bf16: neighbours, means, independence, and equal bits everywhere."""

import math
from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.stochastic_rounding import (
    round_to_bf16,
    round_to_bf16_plain,
    round_to_bf16_triton,
)

Round = Callable[..., None]
BOTH: list[Round] = [round_to_bf16_plain, round_to_bf16_triton]
YES, NO = torch.tensor(True), torch.tensor(False)
KEYS = torch.tensor([-5, 77], dtype=torch.int32)
MANY = 1 << 16


def rounded(
    x: torch.Tensor, keys: torch.Tensor = KEYS, start: int = 0, by: Round = round_to_bf16
) -> torch.Tensor:
    out = torch.empty_like(x, dtype=torch.bfloat16)
    by(x, out, keys, YES, start)
    return out


def keys_of(draw: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw)
    return torch.randint(-(1 << 31), 1 << 31, (2,), generator=generator).to(torch.int32)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next value of bf16 towards zero and the one away from it, in float64."""
    inner = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    outer = ((x.view(torch.int32) & ~0xFFFF) + 0x10000).view(torch.float32)
    return inner.double(), outer.double()


def test_both_ways_of_computing_give_the_same_bits() -> None:
    x = normal(3, 1500).exp2_() * normal(3, 1500, seed=1)
    x[0, :4] = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])

    for start in (0, 9, (1 << 31) - 5000):
        plain, triton = (rounded(x, start=start, by=each) for each in BOTH)
        assert torch.equal(plain.view(torch.int16), triton.view(torch.int16))
        assert torch.equal(plain[0, :4].float(), x[0, :4])


@pytest.mark.parametrize("by", BOTH)
def test_a_value_becomes_one_of_its_neighbours_and_one_of_bf16_stays(by: Round) -> None:
    x = normal(5000) * 10 ** (8 * normal(5000, seed=1))
    inner, outer = neighbours(x)

    found = rounded(x, by=by).double()

    assert bool(((found == inner) | (found == outer)).all())
    exact = x.bfloat16()
    assert torch.equal(rounded(exact.float(), by=by), exact)
    assert bool(rounded(torch.full((9,), float("nan")), by=by).isnan().all())
    odd = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert bool(rounded(odd, by=by).isnan().all())


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("value", [1.0, -3e-5])
def test_the_mean_of_many_draws_is_the_value(share: float, value: float) -> None:
    """Over elements and over keys; the bound is five standard deviations of a fair draw."""
    inner, outer = (each.item() for each in neighbours(torch.tensor([value])))
    x = torch.tensor([inner + share * (outer - inner)], dtype=torch.float32)
    exact = (x.double().item() - inner) / (outer - inner)
    bound = 5 * math.sqrt(exact * (1 - exact) / MANY)

    over_elements = rounded(x.expand(MANY).contiguous())
    over_keys = torch.stack([rounded(x.expand(256).contiguous(), keys_of(i)) for i in range(256)])

    for found in (over_elements, over_keys):
        up = (found.double() - inner) / (outer - inner)
        assert set(up.unique().tolist()) <= {0.0, 1.0}
        assert abs(up.mean().item() - exact) < bound


def test_all_bits_of_a_draw_are_fair_and_independent() -> None:
    """A value in the middle is a coin. Two coins agree in half of the throws."""
    middle = torch.full((MANY,), 1 + 2**-8)
    coins = rounded(middle) > 1
    bound = 5 * 0.5 / math.sqrt(MANY)
    for distance in (1, 2, 7, 64, 256, 1024):
        agreed = (coins[distance:] == coins[:-distance]).double().mean().item()
        assert abs(agreed - 0.5) < 1.1 * bound
    for draw in range(64):  # keys are digests, which differ in about half of their bits
        other = rounded(middle, keys_of(draw)) > 1
        assert abs((other == coins).double().mean().item() - 0.5) < bound


def test_a_tensor_in_pieces_is_rounded_as_a_whole() -> None:
    x = normal(3000)
    parts = [rounded(part.contiguous(), start=at) for at, part in ((0, x[:700]), (700, x[700:]))]

    assert torch.equal(torch.cat(parts), rounded(x))


@pytest.mark.parametrize("by", BOTH)
def test_nothing_is_written_where_the_flag_is_false(by: Round) -> None:
    out = torch.full((1500,), 7.0, dtype=torch.bfloat16)

    by(normal(1500), out, KEYS, NO, 0)

    assert bool((out == 7).all())


def test_the_draws_never_change() -> None:
    """A resumed run of a later version has to round as before."""
    coins = rounded(torch.full((64,), 1 + 2**-8)) > 1

    assert sum(int(bit) << i for i, bit in enumerate(coins.tolist())) == DRAWS


DRAWS = 7492247871515875851
