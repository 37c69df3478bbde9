"""Optimizers, their state as tensors, clipping and the schedule."""

import pytest
import torch
from torch import nn

from trainer_core.config.plan import Clip, OptimizerPlan, SchedulePlan
from trainer_core.errors import CheckpointError
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.optim.clip import clip_gradients, largest_gradient
from trainer_core.optim.schedule import learning_rate_at
from trainer_core.optim.state import load_state_tensors, state_tensors


def plan(name: str) -> OptimizerPlan:
    return OptimizerPlan.model_validate(
        {
            "name": name,
            "learning_rate": 1e-2,
            "betas": (0.9, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.01,
        }
    )


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(5)
    return {
        f"m.{i}": nn.Parameter(torch.randn(shape, generator=draw).to(dtype))
        for i, shape in enumerate([(4, 4), (1,), (3, 7)])
    }


def advance(
    optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], steps: range
) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for parameter in trained.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        set_learning_rate(optimizer, 1e-3 * step)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["optimi-lion", "adamw"])
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    unbroken = parameters(dtype)
    whole = build_optimizer(unbroken.values(), plan(name))
    advance(whole, unbroken, range(1, 4))
    saved = {key: value.clone() for key, value in state_tensors(whole, unbroken).items()}
    values = {key: value.detach().clone() for key, value in unbroken.items()}
    advance(whole, unbroken, range(4, 8))

    resumed = {key: nn.Parameter(value) for key, value in values.items()}
    half = build_optimizer(resumed.values(), plan(name))
    load_state_tensors(half, resumed, saved)
    advance(half, resumed, range(4, 8))

    for key, parameter in unbroken.items():
        assert torch.equal(parameter, resumed[key])
    ended, again = state_tensors(whole, unbroken), state_tensors(half, resumed)
    assert ended.keys() == again.keys()
    assert all(torch.equal(ended[key], again[key]) for key in ended)
    assert all(ended[key].dtype is again[key].dtype for key in ended)


def test_state_of_another_parameter_or_half_a_state_is_refused() -> None:
    trained = parameters()
    optimizer = build_optimizer(trained.values(), plan("adamw"))
    advance(optimizer, trained, range(1, 2))
    saved = state_tensors(optimizer, trained)
    fresh = build_optimizer(trained.values(), plan("adamw"))

    with pytest.raises(CheckpointError, match=r"m\.9"):
        load_state_tensors(fresh, trained, {"m.9/exp_avg": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"m\.1"):
        load_state_tensors(
            fresh, trained, {k: v for k, v in saved.items() if not k.startswith("m.1/")}
        )


def test_before_the_first_step_there_is_no_state() -> None:
    trained = parameters()
    assert state_tensors(build_optimizer(trained.values(), plan("optimi-lion")), trained) == {}


@pytest.mark.parametrize(
    ("name", "warmup", "step", "expected"),
    [
        ("constant", 0, 1, 2.0),
        ("constant_with_warmup", 4, 1, 0.5),
        ("constant_with_warmup", 4, 4, 2.0),
        ("constant_with_warmup", 4, 900, 2.0),
        ("constant_with_warmup", 0, 1, 2.0),
    ],
)
def test_the_rate_of_a_step(name: str, warmup: int, step: int, expected: float) -> None:
    schedule = SchedulePlan.model_validate({"name": name, "warmup_steps": warmup})

    assert learning_rate_at(step, schedule, 2.0) == expected


def test_there_is_no_step_zero() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        learning_rate_at(0, SchedulePlan(name="constant", warmup_steps=0), 1.0)


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    trained = [nn.Parameter(torch.zeros(len(each))) for each in gradients]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return trained


def test_clipping_by_value_and_by_norm() -> None:
    by_value, by_norm = (with_gradients([3.0, -0.5], [4.0]) for _ in range(2))

    clip_gradients(by_value, Clip(method="value", limit=1.0))
    clip_gradients(by_norm, Clip(method="norm", limit=1.0))

    assert [p.grad.tolist() for p in by_value if p.grad is not None] == [[1.0, -0.5], [1.0]]
    norm = torch.cat([p.grad for p in by_norm if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_largest_gradient_shows_what_is_not_finite(bad: float) -> None:
    assert largest_gradient(with_gradients([3.0, -5.0], [4.0])).item() == 5.0
    assert not torch.isfinite(largest_gradient(with_gradients([1.0, bad], [4.0])))
