"""The running mean, compared with one in float64; using it leaves the parameters unchanged."""

import pytest
import torch
from torch import nn

from trainer_core.config.plan import EmaPlan
from trainer_core.errors import CheckpointError
from trainer_core.optim import guarded
from trainer_core.optim.ema import Ema, decay_at
from trainer_core.optim.flat import FlatParameters

CPU = torch.device("cpu")


def plan(decay: float = 0.9, warmup_steps: int = 0, update_interval: int = 1) -> EmaPlan:
    return EmaPlan(decay=decay, warmup_steps=warmup_steps, update_interval=update_interval)


@pytest.fixture(autouse=True, params=["known", "on the device", "in pieces"])
def flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as on cuda, where the host does not know whether a step was healthy."""
    if request.param != "known":
        monkeypatch.setattr(guarded, "host_knows", lambda flag: False)
    if request.param == "in pieces":
        monkeypatch.setattr(guarded, "_PIECE_ELEMENTS", 64)


def moved(parameters: dict[str, nn.Parameter], step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=draw))


def ema_of(parameters: dict[str, nn.Parameter], ema_plan: EmaPlan) -> Ema:
    return Ema(FlatParameters(parameters), ema_plan, CPU)


def update(ema: Ema, step: int, *, is_healthy: bool = True) -> None:
    ema.update(torch.tensor(ema.share(step)), torch.tensor(is_healthy))


def fresh() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.ones(3, 4)), "b.scalar": nn.Parameter(torch.zeros(1))}


def test_the_decay_grows_with_the_updates_up_to_its_limit() -> None:
    found = [decay_at(step, plan(decay=0.4)) for step in range(1, 8)]

    assert found == [0.0, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4, 0.4]


def test_an_interval_counts_updates_not_steps() -> None:
    assert decay_at(10, plan(update_interval=5)) == 3 / 12


def test_during_a_warm_up_the_mean_is_a_copy() -> None:
    found = [decay_at(step, plan(decay=0.9, warmup_steps=2)) for step in (1, 2, 3, 4)]

    assert found == [0.0, 0.0, 0.9, 0.9]
    parameters = fresh()
    ema = ema_of(parameters, plan(warmup_steps=2))
    for step in (1, 2):
        moved(parameters, step)
        update(ema, step)
        assert all(torch.equal(ema.tensors()[name], parameters[name]) for name in parameters)


@pytest.mark.parametrize(("warmup_steps", "interval"), [(50, 100), (0, 100), (0, 1)])
def test_the_first_update_is_a_copy(warmup_steps: int, interval: int) -> None:
    """With an interval longer than the warm-up no other update would be one."""
    parameters = fresh()
    ema = ema_of(parameters, plan(0.995, warmup_steps, interval))
    for step in range(1, interval + 1):
        moved(parameters, step)
        update(ema, step)

    assert all(torch.equal(ema.tensors()[name], parameters[name]) for name in parameters)
    assert decay_at(2 * interval, plan(0.995, warmup_steps, interval)) > 0


@pytest.mark.parametrize("interval", [1, 3])
def test_the_mean_equals_one_in_float64(interval: int) -> None:
    parameters = fresh()
    ema = ema_of(parameters, plan(decay=0.3, update_interval=interval))
    expected = {name: value.detach().double() for name, value in parameters.items()}

    for step in range(1, 10):
        moved(parameters, step)
        update(ema, step)
        if step % interval == 0:
            s = step // interval
            kept = min(0.3, (1 + s) / (10 + s)) if s > 1 else 0.0
            expected = {
                name: kept * mean + (1 - kept) * parameters[name].detach().double()
                for name, mean in expected.items()
            }

    for name, mean in expected.items():
        assert ema.tensors()[name].dtype is torch.float32
        torch.testing.assert_close(ema.tensors()[name].double(), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_the_parameters_hold_the_means_for_a_while_and_then_their_own_bits(fails: bool) -> None:
    parameters = fresh()
    ema = ema_of(parameters, plan())
    for step in (1, 2):
        moved(parameters, step)
        update(ema, step)
    trained = {name: value.detach().clone() for name, value in parameters.items()}
    means = {name: value.clone() for name, value in ema.tensors().items()}

    def look() -> None:
        with ema.applied():
            assert all(torch.equal(parameters[name], means[name]) for name in means)
            assert not torch.equal(parameters["a"], trained["a"])
            if fails:
                raise RuntimeError("while applied")

    if fails:
        with pytest.raises(RuntimeError, match="while applied"):
            look()
    else:
        look()

    assert all(torch.equal(parameters[name], trained[name]) for name in trained)
    assert all(torch.equal(ema.tensors()[name], means[name]) for name in means)


def test_a_mean_is_restored_and_one_of_other_parameters_is_refused() -> None:
    parameters = fresh()
    ema = ema_of(parameters, plan())
    moved(parameters, 1)
    update(ema, 1)
    again = ema_of(parameters, plan())

    again.load(ema.tensors())

    assert all(torch.equal(again.tensors()[name], mean) for name, mean in ema.tensors().items())
    with pytest.raises(CheckpointError, match=r"b\.scalar"):
        again.load({"a": ema.tensors()["a"]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_after_a_step_that_is_not_healthy_the_mean_keeps_its_bits(bad: float) -> None:
    parameters = fresh()
    ema = ema_of(parameters, plan())
    moved(parameters, 1)
    update(ema, 1)
    before = {name: mean.clone() for name, mean in ema.tensors().items()}
    with torch.no_grad():
        parameters["a"][0, 0] = bad

    update(ema, 2, is_healthy=False)

    assert all(torch.equal(ema.tensors()[name], mean) for name, mean in before.items())


def test_without_an_update_the_share_is_zero() -> None:
    ema = ema_of(fresh(), plan(decay=0.9, warmup_steps=4, update_interval=2))

    assert [ema.share(step) for step in range(1, 7)] == pytest.approx([0, 1, 0, 1, 0, 0.1])
