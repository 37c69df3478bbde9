"""What a step tells of itself: the gradient's norm, its losses, and what stops it."""

from pathlib import Path

import pytest
import torch

from tests.support.jobs import demo_plan
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Clip, Plan
from trainer_core.engine.losses import Losses
from trainer_core.engine.step_metrics import NUM_REPORTED, StepMeans, metrics_of, total_loss
from trainer_core.errors import NonFiniteLossError
from trainer_core.optim.clip import clip_gradients


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


@pytest.mark.parametrize(
    "clip", [None, Clip(method="value", limit=1e-6), Clip(method="norm", limit=1e-6)]
)
def test_the_norm_is_that_of_the_gradient_before_it_is_clipped(clip: Clip | None) -> None:
    leaves = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    for number, leaf in enumerate(leaves):
        leaf.grad = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(number))
    flat = torch.cat([leaf.grad.double().flatten() for leaf in leaves if leaf.grad is not None])

    norm = clip_gradients([*leaves, torch.nn.Parameter(torch.zeros(1))], clip, torch.zeros(()))

    assert norm.item() == pytest.approx(flat.norm().item(), rel=1e-6)
    assert leaves[0].grad is not None
    assert (leaves[0].grad.abs().max().item() < 1e-5) is (clip is not None)


def test_a_norm_that_fp32_cannot_hold_stops_no_step() -> None:
    means = StepMeans(torch.device("cpu"))
    means.add(Losses(torch.ones(3), None), 1, torch.tensor([0.0, 0.2, 1.0]))
    more = means.more_numbers(torch.tensor(float("inf"))).tolist()

    metrics = metrics_of(1, [1.0, 0.0, 2.0], more, has_balance=False)

    assert metrics.grad_norm is None
    assert metrics.loss_by_sigma == (1.0, None, None, 1.0)
    assert 3 + len(more) == NUM_REPORTED


def test_the_balancing_loss_is_weighted_in_the_total_and_not_in_the_metrics(plan: Plan) -> None:
    objective = plan.identity.objective.model_copy(update={"balance_weight": 0.5})
    losses = [
        Losses(torch.tensor([1.0, 2.0]), torch.tensor(4.0)),
        Losses(torch.tensor([3.0, 4.0]), torch.tensor(6.0)),
    ]
    means = StepMeans(torch.device("cpu"))
    for each in losses:
        means.add(each, 2, torch.tensor([0.5, 0.5]))

    numbers = means.numbers(torch.tensor(0.25)).tolist()
    metrics = metrics_of(1, numbers, has_balance=means.has_balance)

    assert total_loss(losses[0], objective).item() == 1.5 + 0.5 * 4
    assert (metrics.loss, metrics.balance_loss, metrics.grad_max) == (2.5, 5.0, 0.25)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_balancing_loss_that_is_not_finite_is_named(bad: float) -> None:
    means = StepMeans(torch.device("cpu"))
    means.add(Losses(torch.ones(2), torch.tensor(bad)), 2, torch.ones(2))
    means.add(Losses(torch.ones(2), torch.tensor(1.0)), 2, torch.ones(2))

    numbers = means.numbers(torch.tensor(0.25)).tolist()
    with pytest.raises(NonFiniteLossError, match=f"step 7: loss 1.0, balancing loss {bad}"):
        metrics_of(7, numbers, has_balance=means.has_balance)


@pytest.mark.parametrize(
    ("step", "words"), [(1, "No option of the optimizer can be"), (2, "Lower learning_rate")]
)
def test_the_first_step_is_not_blamed_on_the_learning_rate(step: int, words: str) -> None:
    with pytest.raises(NonFiniteLossError, match=words):
        metrics_of(step, [float("nan"), 0.0, 1.0], has_balance=False)
