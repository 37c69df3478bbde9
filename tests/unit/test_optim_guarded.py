"""Updates that are left out on the device, compared with those of the libraries."""

from collections.abc import Callable, Iterable
from typing import Any

import optimi
import pytest
import torch
from torch import nn

from trainer_core.config.plan import HOST_ASKING_OPTIMIZERS, OptimizerPlan
from trainer_core.errors import CheckpointError
from trainer_core.optim import guarded
from trainer_core.optim.build import BUILDERS, build_optimizer, set_learning_rate
from trainer_core.optim.flat import FlatParameters
from trainer_core.optim.guarded import GuardedOptimizer
from trainer_core.optim.open import open_optimizer
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.separate import SeparateParameters
from trainer_core.optim.state import state_tensors

Kind = Callable[[dict[str, nn.Parameter]], ParameterTensors]
KINDS: tuple[Kind, ...] = (FlatParameters, SeparateParameters)
LIBRARIES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "optimi-lion": lambda trained, eps, **options: optimi.Lion(trained, foreach=False, **options),
    "optimi-adamw": lambda trained, **options: optimi.AdamW(trained, foreach=False, **options),
    "adamw": lambda trained, **options: torch.optim.AdamW(trained, foreach=False, **options),
}
YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.fixture(autouse=True, params=["known", "on the device", "in pieces"])
def flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as on cuda, where the host does not know whether a step was healthy."""
    if request.param != "known":
        monkeypatch.setattr(guarded, "host_knows", lambda flag: False)
    if request.param == "in pieces":
        monkeypatch.setattr(guarded, "_PIECE_ELEMENTS", 64)


def plan(name: str, weight_decay: float = 0.01) -> OptimizerPlan:
    given: dict[str, Any] = {"name": name, "learning_rate": 1e-2, "weight_decay": weight_decay}
    return OptimizerPlan.model_validate(given | {"betas": (0.9, 0.99), "eps": 1e-8})


def fresh() -> dict[str, nn.Parameter]:
    """Sizes below, at and above the width of a vector register."""
    draw = torch.Generator().manual_seed(5)
    shapes = [(4, 4), (1,), (3, 7), (65, 64), (16, 16)]
    return {
        f"m.{i}.w": nn.Parameter(torch.randn(shape, generator=draw))
        for i, shape in enumerate(shapes)
    }


def set_gradients(trained: Iterable[nn.Parameter], step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    for parameter in trained:
        gradient = torch.randn(parameter.shape, generator=draw)
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)


def rate_at(step: int) -> float:
    return 1e-3 * step


def take_step(
    optimizer: GuardedOptimizer,
    parameters: ParameterTensors,
    step: int,
    is_healthy: torch.Tensor = YES,
) -> None:
    set_gradients(parameters.named.values(), step)
    optimizer.update(torch.tensor(optimizer.numbers(step, rate_at(step))), is_healthy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", LIBRARIES)
def test_fifty_steps_equal_the_librarys_bit_for_bit(
    name: str, weight_decay: float, kind: Kind
) -> None:
    wanted = plan(name, weight_decay)
    ours, theirs = fresh(), fresh()
    parameters = kind(ours)
    optimizer = open_optimizer(parameters, wanted)
    library = LIBRARIES[name](
        theirs.values(), lr=1.0, betas=wanted.betas, eps=wanted.eps, weight_decay=weight_decay
    )

    for step in range(1, 51):
        take_step(optimizer, parameters, step)
        set_gradients(theirs.values(), step)
        set_learning_rate(library, rate_at(step))
        library.step()

    assert all(torch.equal(ours[each], theirs[each]) for each in ours)
    assert same(optimizer.state(), state_tensors(library, theirs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["optimi-lion", "optimi-adamw", "adamw", "prodigy"])
def test_a_step_that_is_not_healthy_changes_no_bit(name: str, bad: float, kind: Kind) -> None:
    ours = fresh()
    with torch.no_grad():
        ours["m.0.w"][0, 0] = -0.0
    parameters = kind(ours)
    optimizer = open_optimizer(parameters, plan(name, 0.0))
    take_step(optimizer, parameters, 1)
    before = {key: bits(value) for key, value in {**ours, **optimizer.state()}.items()}

    set_gradients(ours.values(), 2)
    for parameter in ours.values():
        assert parameter.grad is not None
        parameter.grad.view(-1)[0] = bad
    optimizer.update(torch.tensor(optimizer.numbers(2, 1e-3)), NO)

    after = {key: bits(value) for key, value in {**ours, **optimizer.state()}.items()}
    assert before == after
    take_step(optimizer, parameters, 2)
    assert before != {key: bits(value) for key, value in {**ours, **optimizer.state()}.items()}


@pytest.mark.parametrize("name", ["optimi-lion", "optimi-adamw", "adamw"])
def test_state_moves_between_a_library_a_flat_tensor_and_separate_ones(name: str) -> None:
    """So that a run resumes with or without ZeRO, and from a checkpoint of an older version."""
    theirs = fresh()
    library = build_optimizer(theirs.values(), plan(name))
    for step in (1, 2):
        set_gradients(theirs.values(), step)
        set_learning_rate(library, rate_at(step))
        library.step()
    saved = {key: value.clone() for key, value in state_tensors(library, theirs).items()}
    values = {key: value.detach().clone() for key, value in theirs.items()}
    set_gradients(theirs.values(), 3)
    set_learning_rate(library, rate_at(3))
    library.step()

    for kind in KINDS:
        resumed = {key: nn.Parameter(value.clone()) for key, value in values.items()}
        parameters = kind(resumed)
        optimizer = open_optimizer(parameters, plan(name))
        optimizer.load(saved)
        assert same(optimizer.state(), saved)
        take_step(optimizer, parameters, 3)
        assert all(torch.equal(resumed[each], theirs[each]) for each in theirs)
        assert same(optimizer.state(), state_tensors(library, theirs))


def test_lions_state_that_its_kernels_on_cuda_left_is_ignored() -> None:
    parameters = FlatParameters(fresh())
    optimizer = open_optimizer(parameters, plan("optimi-lion"))
    take_step(optimizer, parameters, 1)
    saved = {key: value.clone() for key, value in optimizer.state().items()}
    again = open_optimizer(FlatParameters(fresh()), plan("optimi-lion"))

    again.load(saved | {"optim/m.0.w/kahan_comp": torch.zeros(1)})

    assert same(again.state(), saved)


@pytest.mark.parametrize("name", ["optimi-lion", "optimi-adamw", "adamw"])
def test_state_that_does_not_fit_is_refused(name: str) -> None:
    optimizer = open_optimizer(FlatParameters(fresh()), plan(name))
    saved = optimizer.state()
    small = {"optim/m.1.w/exp_avg": torch.zeros(2)}

    with pytest.raises(CheckpointError, match=r"m\.9"):
        optimizer.load(saved | {"optim/m.9/exp_avg": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no optimizer state exp_avg of m\.1\.w"):
        optimizer.load({key: value for key, value in saved.items() if "m.1.w/exp" not in key})
    with pytest.raises(CheckpointError, match=r"exp_avg of m\.1\.w is \(2,\)"):
        optimizer.load(saved | small)


@pytest.mark.parametrize("name", ["optimi-adamw", "adamw"])
def test_a_state_without_its_count_of_updates_is_refused(name: str) -> None:
    optimizer = open_optimizer(FlatParameters(fresh()), plan(name))
    saved = {k: v for k, v in optimizer.state().items() if not k.endswith("/step")}

    with pytest.raises(CheckpointError, match="no count of updates"):
        optimizer.load(saved)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    ours = fresh()
    parameters = SeparateParameters(ours)
    optimizer = open_optimizer(parameters, plan("adamw"))
    set_gradients(ours.values(), 1)
    ours["m.0.w"].grad = None
    before = ours["m.0.w"].detach().clone()

    optimizer.update(torch.tensor(optimizer.numbers(1, 1e-2)), YES)

    assert torch.equal(ours["m.0.w"], before)


def test_the_plans_list_of_optimizers_that_ask_the_host_is_complete() -> None:
    optimizers = {name: open_optimizer(FlatParameters(fresh()), plan(name)) for name in BUILDERS}

    asking = {name for name, optimizer in optimizers.items() if optimizer.asks_host}

    assert asking == set(HOST_ASKING_OPTIMIZERS)
    assert optimizers.keys() - asking == LIBRARIES.keys()


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        value.dtype is b[key].dtype and torch.equal(value, b[key]) for key, value in a.items()
    )
