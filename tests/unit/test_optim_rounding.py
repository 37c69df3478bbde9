"""Updates of weights and states in bf16, against float64 and against fp32."""

from collections.abc import Mapping
from typing import Any

import optimi
import pytest
import torch
from torch import nn

from trainer_core.config.plan import EmaPlan, OptimizerPlan
from trainer_core.optim import guarded
from trainer_core.optim.ema import Ema
from trainer_core.optim.open import open_optimizer
from trainer_core.optim.separate import SeparateParameters

NAMES = ("optimi-lion", "optimi-adamw", "adamw")
YES, NO = torch.tensor(True), torch.tensor(False)
BF16 = torch.bfloat16


def plan(name: str) -> OptimizerPlan:
    given: dict[str, Any] = {"name": name, "learning_rate": 1e-2, "weight_decay": 0.01}
    return OptimizerPlan.model_validate(given | {"betas": (0.9, 0.99), "eps": 1e-8})


def fresh(dtype: torch.dtype = BF16) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(5)
    shapes = {"a.w": (65, 64), "b.w": (7,), "c.w": (16, 16)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=draw).to(BF16).to(dtype))
        for name, shape in shapes.items()
    }


def gradients(parameters: Mapping[str, nn.Parameter], step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(each.shape, generator=draw).to(BF16) for name, each in parameters.items()
    }


class Training:
    """An optimizer over parameters in bf16."""

    def __init__(self, name: str, seed: int = 1) -> None:
        self.named = fresh()
        self.optimizer = open_optimizer(SeparateParameters(self.named), plan(name), seed)

    def step(self, step: int, is_healthy: torch.Tensor = YES, rate: float = 1e-3) -> None:
        for name, gradient in gradients(self.named, step).items():
            self.named[name].grad = gradient
        self.optimizer.update(torch.tensor(self.optimizer.numbers(step, rate)), is_healthy)

    def snapshot(self) -> dict[str, torch.Tensor]:
        everything = {**self.named, **self.optimizer.state()}
        return {name: value.detach().clone() for name, value in everything.items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        value.dtype is b[key].dtype and torch.equal(value, b[key]) for key, value in a.items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_within_one_neighbour_of_float64(name: str) -> None:
    training = Training(name)
    wide = {key: nn.Parameter(value.double()) for key, value in fresh().items()}
    libraries: dict[str, Any] = {
        "optimi-lion": lambda w: optimi.Lion(w, lr=1e-3, betas=(0.9, 0.99), foreach=False),
        "optimi-adamw": lambda w: optimi.AdamW(w, lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
        "adamw": lambda w: torch.optim.AdamW(w, lr=1e-3, betas=(0.9, 0.99), eps=1e-8),
    }
    library = libraries[name](list(wide.values()))
    library.param_groups[0]["weight_decay"] = 0.01

    training.step(1)
    for key, gradient in gradients(wide, 1).items():
        wide[key].grad = gradient.double()
    library.step()

    state = training.optimizer.state()
    for key, exact in wide.items():
        assert_neighbour(training.named[key].detach(), exact.detach())
        for field in {"exp_avg", "exp_avg_sq"} & library.state[exact].keys():
            assert_neighbour(state[f"optim/{key}/{field}"], library.state[exact][field])


def assert_neighbour(found: torch.Tensor, exact: torch.Tensor) -> None:
    """``found`` is one of the two values of bf16 around ``exact``, up to the rounding of fp32."""
    assert found.dtype is BF16
    unit = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 7)
    assert bool(((found.double() - exact).abs() < unit * (1 + 2**-10)).all())


@pytest.mark.parametrize("name", NAMES)
def test_small_updates_add_up(name: str) -> None:
    """Rounded to nearest, a weight of 1 would never move by 1e-4."""
    training = Training(name)
    with torch.no_grad():
        for value in training.named.values():
            value.fill_(1.0)
    for step in range(1, 51):
        for each in training.named.values():
            each.grad = torch.ones_like(each)
        numbers = training.optimizer.numbers(step, 1e-4)
        training.optimizer.update(torch.tensor(numbers), YES)

    moved = 1 - torch.cat([each.detach().double().flatten() for each in training.named.values()])
    # 50 steps of 1e-4, and the decay; the bound is five standard deviations of the mean.
    exact = 50 * 1e-4 * 1.01
    deviation = (moved.std() / len(moved) ** 0.5).item()
    assert abs(moved.mean().item() - exact) < 5 * deviation + 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_optimizer_rounds_as_one_that_went_on(name: str) -> None:
    whole, broken = Training(name), Training(name)
    for step in (1, 2):
        whole.step(step)
        broken.step(step)
    saved = broken.snapshot()
    torch.manual_seed(9)
    again = Training(name)
    with torch.no_grad():
        for key, value in again.named.items():
            value.copy_(saved[key])
    again.optimizer.load({key: value for key, value in saved.items() if key not in again.named})
    for each in (whole, again):
        each.step(3)

    assert same(whole.snapshot(), again.snapshot())
    other = Training(name, seed=2)
    other.step(1)
    first = Training(name)
    first.step(1)
    assert not same(first.snapshot(), other.snapshot())


@pytest.mark.parametrize("name", NAMES)
def test_pieces_and_an_unknown_flag_change_no_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Training(name)
    whole.step(1)
    monkeypatch.setattr(guarded, "host_knows", lambda flag: False)
    monkeypatch.setattr(guarded, "_BF16_PIECE_ELEMENTS", 64)
    pieces = Training(name)
    pieces.step(1)

    assert same(whole.snapshot(), pieces.snapshot())
    pieces.step(2, NO)
    assert same(whole.snapshot(), pieces.snapshot())


def test_a_mean_of_parameters_in_bf16_is_kept_in_fp32() -> None:
    parameters = SeparateParameters(fresh())
    settings = EmaPlan(decay=0.9, warmup_steps=0, update_interval=1)
    ema = Ema(parameters, settings, torch.device("cpu"))
    with torch.no_grad():
        for leaf in parameters.leaves:
            leaf.add_(1)
    ema.update(torch.tensor(0.3), YES)
    means = {key: value.clone() for key, value in ema.tensors().items()}
    values = {key: value.detach().clone() for key, value in parameters.named.items()}

    with ema.applied():
        inside = {key: value.detach().clone() for key, value in parameters.named.items()}

    assert same(inside, {key: value.to(BF16) for key, value in means.items()})
    assert same(means, dict(ema.tensors()))
    assert same(values, {key: value.detach() for key, value in parameters.named.items()})
    assert not same(values, inside)
