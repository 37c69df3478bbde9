"""The loss of a velocity: formulas, thresholds, masks and types."""

import pytest
import torch

from tests.unit.config_examples import import_small
from tests.unit.hidream_oracle import Wanted, cost_of, draw
from trainer_core.config.plan import Objective
from trainer_core.hidream.flow_loss import flow_loss, huber_threshold

SIGMAS = torch.tensor([0.0, 0.25, 0.9, 0.999])


def objective(**changes: object) -> Objective:
    return import_small().plan.identity.objective.model_copy(update=changes)


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_each_loss_is_its_formula(loss: str, schedule: str) -> None:
    prediction, target = draw(4, 3, 6, 4, seed=1), draw(4, 3, 6, 4, seed=2)
    wanted = Wanted(loss=loss, c=0.2, schedule=schedule)
    chosen = objective(loss=loss, huber_c=0.2, huber_schedule=schedule)

    right = cost_of(prediction - target, SIGMAS.double(), wanted).flatten(1).mean(1)

    exact = flow_loss(prediction, target, SIGMAS, chosen)
    torch.testing.assert_close(exact, right, rtol=1e-12, atol=0)
    single = flow_loss(prediction.float(), target.float(), SIGMAS, chosen)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), right, rtol=2e-6, atol=0)


@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
def test_small_errors_do_not_cancel_in_fp32(loss: str) -> None:
    prediction = torch.full((4, 1, 2, 2), 1e-4)
    target = torch.zeros_like(prediction)
    chosen = objective(loss=loss, huber_c=0.5, huber_schedule="constant")

    found = flow_loss(prediction, target, SIGMAS, chosen)

    right = 1e-8 if loss == "huber" else 2e-8  # e² and e² / c
    torch.testing.assert_close(found, torch.full((4,), right), rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", ["exponential", "snr"])
def test_thresholds_fall_from_one_to_huber_c(schedule: str) -> None:
    chosen = objective(huber_c=0.1, huber_schedule=schedule)

    thresholds = huber_threshold(torch.linspace(0, 1, 11), chosen).tolist()

    assert thresholds[0] == pytest.approx(1)
    assert thresholds[-1] == pytest.approx(0.1)
    assert thresholds == sorted(thresholds, reverse=True)


def test_bf16_is_compared_in_fp32() -> None:
    prediction, target = draw(1, 16, 8, 8, seed=1).bfloat16(), draw(1, 16, 8, 8, seed=2).float()

    found = flow_loss(prediction, target, SIGMAS[:1], objective())

    assert found.dtype == torch.float32
    assert found.item() == pytest.approx((prediction.float() - target).square().mean().item())


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_the_loss_is_the_mean_inside_the_mask(loss: str) -> None:
    prediction, target = draw(2, 16, 10, 10, seed=1), draw(2, 16, 10, 10, seed=2)
    mask = torch.zeros(2, 1, 10, 10)
    mask[0, :, 3] = 1
    mask[1] = 0.5
    chosen = objective(loss=loss)

    found = flow_loss(prediction, target, SIGMAS[:2], chosen, mask)

    row = flow_loss(prediction[:, :, 3:4], target[:, :, 3:4], SIGMAS[:2], chosen)
    whole = flow_loss(prediction, target, SIGMAS[:2], chosen)
    torch.testing.assert_close(found, torch.stack([row[0], whole[1]]), rtol=1e-12, atol=0)


def test_the_gradient_is_zero_where_the_mask_is_black() -> None:
    prediction = draw(1, 4, 6, 6, seed=1).requires_grad_()
    mask = torch.ones(1, 1, 6, 6)
    mask[..., :3] = 0

    flow_loss(prediction, torch.zeros(1, 4, 6, 6), SIGMAS[1:2], objective(), mask).sum().backward()

    assert prediction.grad is not None
    assert not prediction.grad[..., :3].any()
    assert prediction.grad[..., 3:].all()
