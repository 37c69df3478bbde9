"""Optimizers, their state as tensors, and clipping."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import optimi
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainer_core.config.plan import Clip, OptimizerPlan
from trainer_core.errors import CheckpointError
from trainer_core.optim.build import BUILDERS, build_optimizer, set_learning_rate
from trainer_core.optim.clip import clip_gradients, largest_gradient
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
        for i, shape in enumerate([(4, 4), (1,), (3, 7), (65, 64)])
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


def push(optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], *, steps: int) -> None:
    """Steps with constant gradients at rate 1, which makes Prodigy's estimate grow."""
    set_learning_rate(optimizer, 1.0)
    for _ in range(steps):
        for parameter in trained.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()


NAMES = tuple(BUILDERS)


def test_every_optimizer_that_a_plan_allows_has_a_builder() -> None:
    assert set(get_args(OptimizerPlan.model_fields["name"].annotation)) == set(BUILDERS)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in NAMES), ("optimi-lion", torch.bfloat16)],
)
def test_a_restored_optimizer_takes_the_same_steps_bit_for_bit(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    check_restored(lambda trained: build_optimizer(trained, plan(name)), dtype, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_that_counts_steps_in_its_group_is_restored_too(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    def build(trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = optimi.AdamW(
            trained, lr=1e-2, kahan_sum=True, foreach=False, triton=False
        )
        return optimizer

    check_restored(build, dtype, tmp_path)


def check_restored(
    build: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    unbroken = parameters(dtype)
    whole = build(unbroken.values())
    advance(whole, unbroken, range(1, 4))
    save_file(state_tensors(whole, unbroken), tmp_path / "state.safetensors")
    values = {key: value.detach().clone() for key, value in unbroken.items()}
    advance(whole, unbroken, range(4, 8))

    resumed = {key: nn.Parameter(value) for key, value in values.items()}
    half = build(resumed.values())
    load_state_tensors(half, resumed, load_file(tmp_path / "state.safetensors"))
    advance(half, resumed, range(4, 8))

    for key, parameter in unbroken.items():
        assert torch.equal(parameter, resumed[key])
    ended, again = state_tensors(whole, unbroken), state_tensors(half, resumed)
    assert ended.keys() == again.keys()
    assert all(torch.equal(ended[key], again[key]) for key in ended)
    assert all(ended[key].dtype is again[key].dtype for key in ended)


def test_optimi_adamw_updates_as_optimi_does_bit_for_bit() -> None:
    ours, theirs = parameters(), parameters()
    built = build_optimizer(ours.values(), plan("optimi-adamw"))
    direct = optimi.AdamW(
        theirs.values(), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, foreach=False
    )

    advance(built, ours, range(1, 6))
    advance(direct, theirs, range(1, 6))

    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_lion_in_8_bits_holds_bytes_but_for_small_tensors() -> None:
    trained = parameters()
    optimizer = build_optimizer(trained.values(), plan("bnb-lion8bit-paged"))
    advance(optimizer, trained, range(1, 2))

    state = state_tensors(optimizer, trained)

    assert state["optim/m.3/state1"].dtype is torch.uint8  # 4160 elements
    assert state["optim/m.3/absmax1"].shape == (17,)  # blocks of 256
    assert state["optim/m.0/state1"].dtype is torch.float32
    assert "optim/m.0/absmax1" not in state
    assert state["optim_number/m.3/step"].item() == 1


def test_prodigys_estimate_is_saved_and_changes_the_next_step() -> None:
    trained = parameters()
    optimizer = build_optimizer(trained.values(), plan("prodigy"))
    push(optimizer, trained, steps=20)
    state = state_tensors(optimizer, trained)
    group = {key: value for key, value in state.items() if key.startswith("optim_group/")}

    assert {"optim_group/d", "optim_group/d_max", "optim_group/d_numerator"} <= group.keys()
    assert group["optim_group/d"].item() == optimizer.param_groups[0]["d"] > 1e-6
    assert group["optim_group/k"].dtype is torch.int64

    ends = []
    for lost in ({}, group):
        copy = {key: nn.Parameter(value.detach().clone()) for key, value in trained.items()}
        again = build_optimizer(copy.values(), plan("prodigy"))
        kept = {key: value for key, value in state.items() if key not in lost}
        load_state_tensors(again, copy, kept)
        push(again, copy, steps=1)
        ends.append(copy["m.0"].detach())
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("name", NAMES)
def test_one_step_at_a_tiny_rate_moves_fp32_weights(name: str) -> None:
    trained = {"m": nn.Parameter(torch.full((65, 64), 0.05))}
    optimizer = build_optimizer(trained.values(), plan(name))
    before = trained["m"].detach().clone()
    trained["m"].grad = torch.ones(65, 64)

    # Prodigy's own estimate starts at 1e-6, so its rate 1 is a step of about that size.
    set_learning_rate(optimizer, 1.0 if name == "prodigy" else 1e-7)
    optimizer.step()

    assert not torch.equal(trained["m"], before)


def test_state_of_another_parameter_or_half_a_state_is_refused() -> None:
    trained = parameters()
    optimizer = build_optimizer(trained.values(), plan("adamw"))
    advance(optimizer, trained, range(1, 2))
    saved = state_tensors(optimizer, trained)
    fresh = build_optimizer(trained.values(), plan("adamw"))

    with pytest.raises(CheckpointError, match=r"m\.9"):
        load_state_tensors(fresh, trained, {"optim/m.9/exp_avg": torch.zeros(1)})
    kept = {key: value for key, value in saved.items() if not key.startswith("optim/m.1/")}
    with pytest.raises(CheckpointError, match=r"m\.1"):
        load_state_tensors(fresh, trained, kept)


def test_8_bit_state_without_its_scales_is_refused() -> None:
    trained = parameters()
    optimizer = build_optimizer(trained.values(), plan("bnb-lion8bit-paged"))
    advance(optimizer, trained, range(1, 2))
    saved = state_tensors(optimizer, trained)
    del saved["optim/m.3/absmax1"]
    fresh = build_optimizer(trained.values(), plan("bnb-lion8bit-paged"))

    with pytest.raises(CheckpointError, match=r"absmax1.*m\.3"):
        load_state_tensors(fresh, trained, saved)


def test_before_the_first_step_there_is_no_state() -> None:
    trained = parameters()
    for name in NAMES:
        assert state_tensors(build_optimizer(trained.values(), plan(name)), trained) == {}


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    trained = [nn.Parameter(torch.zeros(len(each))) for each in gradients]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return trained


def test_clipping_by_value_and_by_norm() -> None:
    by_value, by_norm = (with_gradients([3.0, -0.5], [4.0]) for _ in range(2))

    clip_gradients(by_value, Clip(method="value", limit=1.0), torch.zeros(()))
    clip_gradients(by_norm, Clip(method="norm", limit=1.0), torch.zeros(()))

    assert [p.grad.tolist() for p in by_value if p.grad is not None] == [[1.0, -0.5], [1.0]]
    norm = torch.cat([p.grad for p in by_norm if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_largest_gradient_is_not_finite_if_one_is_not(bad: float) -> None:
    assert largest_gradient(with_gradients([3.0, -5.0], [4.0])).item() == 5.0
    assert not torch.isfinite(largest_gradient(with_gradients([1.0, bad], [4.0])))
