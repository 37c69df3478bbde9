"""One optimizer step in this process: its changes, and that a failed step changes nothing."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from tests.support.jobs import demo_plan
from tests.support.networks import network_of
from trainer_core.adapters.attach import attach_adapter
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.engine.step_metrics import SIGMA_BINS
from trainer_core.errors import NonFiniteLossError
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import place_base
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.optim import guarded
from trainer_core.optim.build import BUILDERS
from trainer_core.optim.clip import largest_gradient
from trainer_core.precision.compute import Compute
from trainer_core.process.control import StopRequestedError

CPU = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
OPTIMIZERS = tuple(BUILDERS)


def batch_of(seed: int, size: tuple[int, int] = (4, 6)) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return Batch(
        noisy_BCHW=normal(2, 16, *size),
        target_BCHW=normal(2, 16, *size),
        sigmas_B=torch.rand(2, generator=draw),
        text=TextEmbeddings(normal(2, 5, 48), normal(2, 3, 5, 64), normal(2, 64)),
    )


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


def backend_of(
    tiny_folder: Path, plan: Plan, *, full: bool = False, **identity: Any
) -> SingleProcess:
    """On fresh weights, with EMA; ``identity`` replaces fields of the plan."""
    ema = {"decay": 0.5, "warmup_steps": 0, "update_interval": 1}
    given = {**plan.identity.model_dump(mode="json"), "ema": ema, **identity}
    if full:
        given |= {"model_type": "full", "adapter": None}
    changed = Plan.model_validate({**plan.model_dump(mode="json"), "identity": given})
    transformer = load_transformer(tiny_folder, torch.float32).requires_grad_(True).train()
    if full:
        return SingleProcess(network_of(transformer, compute=CPU), changed)
    assert changed.identity.adapter is not None
    adapter = attach_adapter(transformer, changed.identity.adapter, seed=3)
    return SingleProcess(network_of(transformer, adapter, compute=CPU), changed)


def optimizer_of(name: str) -> dict[str, Any]:
    rate = 1.0 if name == "prodigy" else 1e-3
    betas = [0.9, 0.99]
    return {"name": name, "learning_rate": rate, "betas": betas, "eps": 1e-8, "weight_decay": 0.01}


def step(backend: SingleProcess, number: int, *batches: Batch) -> float:
    count = len(batches)
    return backend.launch(batches, count=count, step=number, learning_rate=1e-3).read().loss


def snapshot(trained: TrainedTensors) -> dict[str, torch.Tensor]:
    everything = {f"param/{name}": value for name, value in trained.parameters.items()}
    everything |= {f"ema/{name}": value for name, value in trained.ema.items()}
    return {name: v.clone() for name, v in (everything | dict(trained.optimizer_state)).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def spoiled(batch: Batch) -> Batch:
    batch.target_BCHW[1, 0, 0, 0] = float("nan")
    return batch


@pytest.mark.parametrize(("after", "where"), [(0, 0), (1, 1), (1, 2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_micro_batch_anywhere_in_a_step_changes_nothing(
    tiny_folder: Path, plan: Plan, optimizer: str, after: int, where: int
) -> None:
    backend = backend_of(tiny_folder, plan, optimizer=optimizer_of(optimizer))
    for number in range(1, after + 1):
        step(backend, number, batch_of(50 + number))
    before = snapshot(backend.tensors())
    window = [batch_of(i) for i in range(3)]
    window[where] = spoiled(window[where])

    with pytest.raises(NonFiniteLossError, match=f"step {after + 1}: loss nan"):
        step(backend, after + 1, *window)

    assert same(before, snapshot(backend.tensors()))
    # Nor is half of it left in the gradients.
    clean = backend_of(tiny_folder, plan, optimizer=optimizer_of(optimizer))
    for number in range(1, after + 1):
        step(clean, number, batch_of(50 + number))
    for each in (backend, clean):
        step(each, after + 1, batch_of(9))
    assert same(snapshot(clean.tensors()), snapshot(backend.tensors()))
    assert not same(before, snapshot(backend.tensors()))


@pytest.mark.parametrize(
    ("optimizer", "full"), [*((name, False) for name in OPTIMIZERS), ("adamw", True)]
)
@pytest.mark.parametrize("knows", [True, False])
def test_steps_launched_after_a_bad_one_change_nothing(
    tiny_folder: Path,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    *,
    optimizer: str,
    full: bool,
    knows: bool,
) -> None:
    """``knows``: whether the host knows that a step was bad; on cuda it does not."""
    monkeypatch.setattr(guarded, "host_knows", lambda flag: knows)
    backend, clean = (
        backend_of(tiny_folder, plan, full=full, optimizer=optimizer_of(optimizer))
        for _ in range(2)
    )
    for each in (backend, clean):
        step(each, 1, batch_of(50))
    before = snapshot(backend.tensors())

    bad, next_, third = (
        backend.launch([batch], count=1, step=number, learning_rate=1e-3)
        for number, batch in ((2, spoiled(batch_of(1))), (3, batch_of(2)), (4, batch_of(3)))
    )

    assert same(before, snapshot(backend.tensors()))
    with pytest.raises(NonFiniteLossError, match="step 2: loss nan"):
        bad.read()
    for number, later in ((3, next_), (4, third)):
        with pytest.raises(NonFiniteLossError, match=f"step {number}: no update"):
            later.read()
    for each in (backend, clean):
        step(each, 2, batch_of(9))
    assert same(snapshot(clean.tensors()), snapshot(backend.tensors()))
    assert not same(before, snapshot(backend.tensors()))


def test_an_error_between_two_micro_batches_leaves_no_gradient(
    tiny_folder: Path, plan: Plan
) -> None:
    def batches() -> Iterator[Batch]:
        yield batch_of(1)
        raise StopRequestedError("while the second was awaited")

    backend, clean = (
        backend_of(tiny_folder, plan, optimizer=optimizer_of("optimi-lion")) for _ in range(2)
    )

    with pytest.raises(StopRequestedError):
        backend.launch(batches(), count=2, step=1, learning_rate=1e-3)

    for each in (backend, clean):
        step(each, 1, batch_of(2))
    assert same(snapshot(clean.tensors()), snapshot(backend.tensors()))


@pytest.mark.parametrize("full", [False, True])
def test_a_parameter_that_is_not_finite_is_found_before_the_update(
    tiny_folder: Path, plan: Plan, full: bool
) -> None:
    backend = backend_of(tiny_folder, plan, full=full, optimizer=optimizer_of("adamw"))
    step(backend, 1, batch_of(0))
    name = next(name for name in backend.tensors().parameters if name.endswith(("w1", "weight")))
    backend.tensors().parameters[name].view(-1)[0] = float("inf")
    before = snapshot(backend.tensors())

    with pytest.raises(NonFiniteLossError, match="step 2: loss nan"):
        step(backend, 2, batch_of(1))

    assert same(before, snapshot(backend.tensors()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_found_although_the_loss_is(
    tiny_folder: Path, plan: Plan, bad: float
) -> None:
    backend = backend_of(tiny_folder, plan, full=True, optimizer=optimizer_of("optimi-lion"))
    before = snapshot(backend.tensors())
    parameter = tuple(backend._parameters.named.values())[40]
    hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, bad))

    with pytest.raises(NonFiniteLossError, match=r"step 1: loss [0-9.]+, largest gradient"):
        step(backend, 1, batch_of(0))
    hook.remove()

    assert same(before, snapshot(backend.tensors()))
    assert math.isfinite(step(backend, 1, batch_of(0)))


def test_accumulation_is_the_mean_over_micro_batches(tiny_folder: Path, plan: Plan) -> None:
    at_rest = {"optimizer": optimizer_of("adamw"), "clip": None}
    backend = backend_of(tiny_folder, plan, full=True, **at_rest)
    one_by_one = [backend.losses(batch_of(i)).mean().item() for i in range(3)]

    window = [batch_of(i) for i in range(3)]
    metrics = backend.launch(window, count=3, step=1, learning_rate=1e-3).read()

    assert metrics.loss == pytest.approx(sum(one_by_one) / 3, rel=1e-6)
    assert metrics.balance_loss is None
    assert metrics.grad_max > 0
    # In each bin of sigma the mean over its samples, whatever their micro-batches.
    backend = backend_of(tiny_folder, plan, full=True, **at_rest)
    of_bins: dict[int, list[float]] = {}
    for batch in window:
        pairs = zip(batch.sigmas_B.tolist(), backend.losses(batch).tolist(), strict=True)
        for sigma, loss in pairs:
            of_bins.setdefault(min(int(sigma * SIGMA_BINS), SIGMA_BINS - 1), []).append(loss)
    expected = [
        pytest.approx(sum(of_bins[n]) / len(of_bins[n]), rel=1e-6) if n in of_bins else None
        for n in range(SIGMA_BINS)
    ]
    assert list(metrics.loss_by_sigma) == expected
    assert any(each is not None for each in expected)


def test_full_rank_trains_every_weight(tiny_folder: Path, plan: Plan) -> None:
    # Without decay, which changes weights that have no gradient, too.
    optimizer = optimizer_of("optimi-lion") | {"weight_decay": 0.0}
    backend = backend_of(tiny_folder, plan, full=True, optimizer=optimizer)
    before = snapshot(backend.tensors())
    names = dict(load_transformer(tiny_folder, torch.float32).named_parameters()).keys()

    step(backend, 1, batch_of(0))

    after = backend.tensors()
    assert after.parameters.keys() == after.ema.keys() == names
    still = {n for n, v in after.parameters.items() if torch.equal(v, before[f"param/{n}"])}
    assert not still


def test_the_parameters_hold_the_means_inside_with_means(tiny_folder: Path, plan: Plan) -> None:
    backend = backend_of(tiny_folder, plan, optimizer=optimizer_of("adamw"))
    for number in range(1, 4):
        step(backend, number, batch_of(number))
    trained, batch = snapshot(backend.tensors()), batch_of(9)
    with torch.no_grad():
        of_trained = backend.losses(batch)
        with backend.with_means():
            of_means = backend.losses(batch)
            inside = {n: v.clone() for n, v in backend.tensors().parameters.items()}

    assert not torch.equal(of_trained, of_means)
    assert all(torch.equal(value, trained[f"ema/{name}"]) for name, value in inside.items())
    assert same(trained, snapshot(backend.tensors()))


class Noisy(nn.Module):
    """A module with dropout in its forward, as an adapter may have."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = nn.functional.dropout(self.inner(input_), 0.3, self.training)
        return dropped


@pytest.mark.parametrize(
    ("interval", "again"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3]), (9, [0])]
)
def test_gradient_checkpointing_at_an_interval_keeps_the_gradients(
    tiny_folder: Path, interval: int, again: list[int]
) -> None:
    def gradients(interval: int | None) -> tuple[list[int], list[torch.Tensor]]:
        transformer = load_transformer(tiny_folder, torch.float32).train()
        blocks = [*transformer.double_stream_blocks, *transformer.single_stream_blocks]
        passes = [0] * len(blocks)

        def count(i: int) -> None:
            passes[i] += 1

        for i, block in enumerate(blocks):
            attention = block.block.attn1
            attention.to_q = Noisy(attention.to_q)
            attention.to_q.register_forward_pre_hook(lambda *_, i=i: count(i))
        torch.manual_seed(5)
        return passes, _gradients(transformer, interval)

    plain, recomputed = gradients(None), gradients(interval)

    assert plain[0] == [1, 1, 1, 1]  # two double-stream, two single-stream
    assert [i for i, passes in enumerate(recomputed[0]) if passes == 2] == again
    assert all(torch.equal(a, b) for a, b in zip(plain[1], recomputed[1], strict=True))


def _gradients(
    transformer: HiDreamImageTransformer2DModel, interval: int | None
) -> list[torch.Tensor]:
    batch = batch_of(1)
    network = network_of(transformer, compute=CPU, gradient_checkpointing_interval=interval)
    prediction = network.velocity(batch.noisy_BCHW, 1000 * batch.sigmas_B, batch.text)
    (prediction.velocity_BCHW - batch.target_BCHW).square().mean().backward()
    trained = list(transformer.parameters())
    assert largest_gradient(trained) > 0
    return [each.grad for each in trained if each.grad is not None]


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        ("cpu", ("quantized 3 linears on cpu", "moved to meta")),
        ("accelerator", ("moved to meta", "quantized 3 linears on meta")),
    ],
)
def test_the_base_is_quantised_on_the_side_that_the_plan_names(
    via: Any, expected: tuple[str, ...]
) -> None:
    """The meta device replaces an accelerator here: every machine has it."""
    base = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4))

    done = place_base(base, "int8-quanto", via, torch.device("meta"))

    assert done == expected
    assert all(each.device.type == "meta" for each in base.parameters())
    assert not any(each.requires_grad for each in base.parameters())


def test_a_base_that_is_not_quantised_is_only_moved() -> None:
    done = place_base(nn.Linear(8, 8), "no_change", "cpu", torch.device("cpu"))

    assert done == ("moved to cpu",)
