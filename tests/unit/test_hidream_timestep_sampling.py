"""Timestep sampling: distributions, shifts and lists."""

import math
from collections import Counter

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.hidream_image.pipeline_hidream_image import calculate_shift

from tests.unit.config_examples import import_small
from trainer_core.config.plan import Objective
from trainer_core.data.permutation import draw_seed
from trainer_core.hidream.timestep_sampling import AutoShift, draw_sigma

DRAWS = 4000


def objective(law: str = "sigmoid", **changes: object) -> Objective:
    plain = import_small().plan.identity.objective
    fields = {"sigmoid_scale", "beta_alpha", "beta_beta", "values", "order"}
    of_law = {name: changes.pop(name) for name in fields & changes.keys()}
    sigma = plain.sigma.model_copy(update={"name": law, **of_law})
    return plain.model_copy(update={"sigma": sigma, "shift": 1.0, **changes})


def draws(chosen: Objective, count: int = DRAWS, image_tokens: int = 1024) -> list[float]:
    return [
        draw_sigma(
            chosen,
            torch.Generator().manual_seed(draw_seed(5, "sigma", i, 0)),
            turn=i,
            image_tokens=image_tokens,
            auto_shift=AutoShift(),
        )
        for i in range(count)
    ]


def farthest(found: list[float], cumulative: object) -> float:
    """Kolmogorov's distance of the draws from a law."""
    ordered = sorted(found)
    return max(abs((n + 0.5) / len(ordered) - cumulative(x)) for n, x in enumerate(ordered))


def logit(x: float) -> float:
    return math.log(x / (1 - x))


def normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(
    ("chosen", "cumulative"),
    [
        (objective(), lambda x: normal(logit(x))),
        (objective(sigmoid_scale=0.5), lambda x: normal(logit(x) / 0.5)),
        (objective("uniform"), lambda x: x),
        (objective("beta", beta_alpha=2.0, beta_beta=2.0), lambda x: 3 * x**2 - 2 * x**3),
        (objective("beta", beta_alpha=1.0, beta_beta=3.0), lambda x: 1 - (1 - x) ** 3),
        (objective("uniform", shift=3.0), lambda x: x / (3 - 2 * x)),
        (objective(shift=3.0), lambda x: normal(logit(x / (3 - 2 * x)))),
    ],
)
def test_draws_follow_their_distribution(chosen: Objective, cumulative: object) -> None:
    assert farthest(draws(chosen), cumulative) < 1.95 / math.sqrt(DRAWS)  # 0.1 % of seeds fail


def test_draws_equal_those_of_earlier_versions() -> None:
    """Runs of versions without the other distributions resume with the same noise."""
    found = draws(objective(shift=3.0), 3)

    expected = []
    for i in range(3):
        generator = torch.Generator().manual_seed(draw_seed(5, "sigma", i, 0))
        sigma = 1 / (1 + math.exp(-torch.randn(1, generator=generator, dtype=torch.float64).item()))
        expected.append(3 * sigma / (1 + 2 * sigma))
    assert found == expected


@pytest.mark.parametrize(
    ("tokens", "shift"),
    [(256, math.exp(0.5)), (4096, math.exp(1.15)), (1024, 1.878), (2304, 2.332)],
)
def test_the_automatic_shift_follows_the_tokens_as_the_pipelines_does(
    tokens: int, shift: float
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    law = AutoShift.of_scheduler(scheduler.config)

    assert law.at(tokens) == pytest.approx(shift, abs=1e-3)
    mu = calculate_shift(tokens)
    assert law.at(tokens) == pytest.approx(math.exp(mu), rel=1e-12)
    plain = draws(objective("uniform"), 20)
    shifted = draws(objective("uniform", auto_shift=True), 20, tokens)
    stock = scheduler.time_shift(mu, 1.0, torch.tensor(plain, dtype=torch.float64))
    assert shifted == pytest.approx(stock.tolist(), rel=1e-12)


def test_a_schedulers_own_numbers_are_taken() -> None:
    law = AutoShift.of_scheduler({"base_image_seq_len": 100, "max_image_seq_len": 200})

    assert law.at(100) == pytest.approx(math.exp(0.5))
    assert law.at(200) == pytest.approx(math.exp(1.15))


def test_a_list_is_random_or_round_robin_and_never_shifted() -> None:
    values = (1.0, 0.75, 0.25)
    at_random = draws(objective("list", values=values, order="random", shift=3.0), 900)
    in_turn = draws(objective("list", values=values, order="round-robin", shift=3.0), 7)

    counts = Counter(at_random)
    assert counts.keys() == set(values)
    assert min(counts.values()) > 240
    assert in_turn == [1.0, 0.75, 0.25, 1.0, 0.75, 0.25, 1.0]
