"""Full rank in one process: weights in bf16, and what a step does with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.jobs import demo_plan
from tests.unit.test_engine_step import batch_of, same, snapshot, spoiled, step
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.errors import CheckpointError, DeviceError, NonFiniteLossError
from trainer_core.hidream.base import load_base
from trainer_core.hidream.network import prepare
from trainer_core.hidream.plain_blocks import PlainBlocks
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.optim import guarded
from trainer_core.precision import base_weights
from trainer_core.precision.compute import compute_on

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


def backend_of(
    tiny_folder: Path,
    plan: Plan,
    *,
    trained: str = "bf16",
    name: str = "adamw",
    released: bool = False,
    groups_experts: bool = False,
    **identity: Any,
) -> SingleProcess:
    """On fresh weights, as a run makes it."""
    given = plan.identity.model_dump(mode="json") | {
        "model_type": "full",
        "adapter": None,
        "ema": None,
        "clip": None,
        "optimizer": {
            "name": name,
            "learning_rate": 1e-3,
            "betas": [0.9, 0.99],
            "eps": 1e-8,
            "weight_decay": 0.01,
        },
    }
    compute_as = "bf16" if trained == "bf16" else "fp32"
    given["precision"] |= {"base": "no_change", "compute": compute_as, "trained": trained}
    operation = plan.operation.model_dump(mode="json") | {"release_gradients": released}
    document = plan.model_dump(mode="json")
    document |= {"identity": given | identity, "operation": operation}
    changed = Plan.model_validate(document)
    compute = compute_on(CPU, changed.identity.precision, trains_base=True)
    transformer = load_base(tiny_folder, changed, compute, "no_change").transformer
    network = prepare(transformer, changed, compute)
    assert isinstance(network.blocks, PlainBlocks)
    blocks = replace(network.blocks, groups_experts=groups_experts)
    return SingleProcess(replace(network, blocks=blocks), changed)


def bf16_batch(seed: int) -> Batch:
    """Its inputs are in the type of the weights, as ``BatchMaker`` makes them."""
    batch = batch_of(seed)
    texts = batch.text.t5, batch.text.llama, batch.text.pooled
    text = TextEmbeddings(*(each.bfloat16() for each in texts))
    return replace(batch, noisy_BCHW=batch.noisy_BCHW.bfloat16(), text=text)


class Saved:
    """As much of a checkpoint as ``Backend.load`` reads."""

    def __init__(self, trained: TrainedTensors) -> None:
        copies = [
            {name: value.detach().clone() for name, value in tensors.items()}
            for tensors in (trained.parameters, trained.optimizer_state, trained.ema)
        ]
        self.parameters, self.optimizer_state, self.ema = copies


@pytest.mark.parametrize("name", ["adamw", "optimi-lion"])
def test_weights_in_bf16_go_on_from_a_checkpoint_bit_for_bit(
    tiny_folder: Path, plan: Plan, name: str
) -> None:
    whole = backend_of(tiny_folder, plan, name=name)
    step(whole, 1, bf16_batch(1))
    saved = Saved(whole.tensors())
    step(whole, 2, bf16_batch(2))
    resumed = backend_of(tiny_folder, plan, name=name)
    resumed.load(saved)  # type: ignore[arg-type]
    step(resumed, 2, bf16_batch(2))

    found = snapshot(resumed.tensors())
    assert same(found, snapshot(whole.tensors()))
    assert {value.dtype for key, value in found.items() if "/step" not in key} == {torch.bfloat16}
    assert not all(torch.equal(found[f"param/{k}"], v) for k, v in saved.parameters.items())
    other = backend_of(tiny_folder, plan, name=name, seed=plan.identity.seed + 1)
    other.load(saved)  # type: ignore[arg-type]
    step(other, 2, bf16_batch(2))
    assert not same(found, snapshot(other.tensors()))


def test_a_bad_micro_batch_changes_no_bit_of_bf16(tiny_folder: Path, plan: Plan) -> None:
    backend = backend_of(tiny_folder, plan)
    step(backend, 1, bf16_batch(1))
    before = snapshot(backend.tensors())

    with pytest.raises(NonFiniteLossError):
        step(backend, 2, bf16_batch(2), spoiled(bf16_batch(3)))

    assert same(before, snapshot(backend.tensors()))
    step(backend, 2, bf16_batch(2))
    assert not same(before, snapshot(backend.tensors()))


CLIPS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"method": "value", "limit": 1e-4},
    {"method": "previous_norm", "limit": 1e-3},
)


@pytest.mark.parametrize(
    ("name", "trained", "clip"),
    [
        ("adamw", "fp32", CLIPS[0]),
        ("optimi-lion", "fp32", CLIPS[1]),
        ("optimi-lion", "bf16", CLIPS[0]),
        ("adamw", "bf16", CLIPS[1]),
        # In fp32 the norm of one flat tensor has another rounding.
        ("adamw", "bf16", CLIPS[2]),
    ],
)
def test_an_update_in_the_backward_pass_equals_one_after_it_bit_for_bit(
    tiny_folder: Path, plan: Plan, name: str, trained: str, clip: dict[str, Any] | None
) -> None:
    make = bf16_batch if trained == "bf16" else batch_of
    ema = {"decay": 0.5, "warmup_steps": 0, "update_interval": 1}
    after, within = (
        backend_of(
            tiny_folder, plan, trained=trained, name=name, released=released, clip=clip, ema=ema
        )
        for released in (False, True)
    )
    told: tuple[list[StepMetrics], list[StepMetrics]] = ([], [])
    for number in (1, 2, 3):
        for backend, metrics in zip((after, within), told, strict=True):
            launched = backend.launch([make(number)], count=1, step=number, learning_rate=1e-3)
            metrics.append(launched.read())
        assert all(leaf.grad is None for leaf in within._parameters.leaves)

    assert same(snapshot(after.tensors()), snapshot(within.tensors()))
    for expected, found in zip(*told, strict=True):
        assert found.loss == expected.loss
        assert found.grad_max == expected.grad_max
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


def test_the_norm_of_the_step_before_clips_also_after_a_resume(
    tiny_folder: Path, plan: Plan
) -> None:
    options: dict[str, Any] = {"released": True, "clip": CLIPS[2], "trained": "fp32"}
    whole, unclipped = (
        backend_of(tiny_folder, plan, **options | more) for more in ({}, {"clip": None})
    )
    for backend in (whole, unclipped):
        step(backend, 1, batch_of(1))
    first = snapshot(whole.tensors())
    assert first.pop("optim_group_tensor/previous_norm") > 0
    assert same(first, snapshot(unclipped.tensors()))
    saved = Saved(whole.tensors())
    resumed = backend_of(tiny_folder, plan, **options)
    resumed.load(saved)  # type: ignore[arg-type]
    for backend in (whole, unclipped, resumed):
        step(backend, 2, batch_of(2))

    assert same(snapshot(whole.tensors()), snapshot(resumed.tensors()))
    clipped = snapshot(whole.tensors())
    assert not torch.equal(*(snapshot(each.tensors())[FIRST] for each in (whole, unclipped)))
    del saved.optimizer_state["optim_group_tensor/previous_norm"]
    with pytest.raises(CheckpointError, match="norm of the last step"):
        resumed.load(saved)  # type: ignore[arg-type]
    assert clipped.keys() == snapshot(resumed.tensors()).keys()


FIRST = "optim/x_embedder.proj.weight/exp_avg"


@pytest.mark.parametrize("knows", [True, False])
def test_a_loss_that_is_not_finite_updates_nothing(
    tiny_folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, *, knows: bool
) -> None:
    monkeypatch.setattr(guarded, "host_knows", lambda flag: knows)
    backend = backend_of(tiny_folder, plan, released=True)
    step(backend, 1, bf16_batch(1))
    before = snapshot(backend.tensors())

    with pytest.raises(NonFiniteLossError, match=r"loss nan.*no update was made"):
        step(backend, 2, spoiled(bf16_batch(2)))

    assert same(before, snapshot(backend.tensors()))


@pytest.mark.parametrize("knows", [True, False])
def test_a_gradient_that_is_not_finite_ends_the_run_within_the_update(
    tiny_folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, *, knows: bool
) -> None:
    """Weights before it are updated, those after it not, and no later step counts."""
    monkeypatch.setattr(guarded, "host_knows", lambda flag: knows)
    backend = backend_of(tiny_folder, plan, released=True)
    step(backend, 1, bf16_batch(1))
    before = snapshot(backend.tensors())
    names = list(backend._parameters.named)
    middle = backend._parameters.named[names[len(names) // 2]]
    broken = middle.register_hook(lambda gradient: gradient * float("inf"))

    bad = backend.launch([bf16_batch(2)], count=1, step=2, learning_rate=1e-3)
    broken.remove()
    partly = snapshot(backend.tensors())
    next_ = backend.launch([bf16_batch(3)], count=1, step=3, learning_rate=1e-3)

    assert same(partly, snapshot(backend.tensors()))
    changed = {name for name in before if not torch.equal(before[name], partly[name])}
    assert 0 < len(changed) < len(before)
    with pytest.raises(NonFiniteLossError, match=r"some weights were updated.*last checkpoint"):
        bad.read()
    with pytest.raises(NonFiniteLossError):
        next_.read()
    with pytest.raises(NonFiniteLossError, match="an earlier step failed within its update"):
        step(backend, 4, bf16_batch(4))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulation_steps": 2}, "one micro-batch"),
        ({"clip": {"method": "norm", "limit": 1.0}}, "not clipped by norm"),
        ({"name": "prodigy", "trained": "fp32"}, "prodigy updates all weights at once"),
    ],
)
def test_what_cannot_be_updated_in_the_backward_pass_is_refused(
    tiny_folder: Path, plan: Plan, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DeviceError, match=says):
        backend_of(tiny_folder, plan, released=True, **options)


def test_experts_are_multiplied_together_where_they_lie(
    tiny_folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a copy of their weights, with the same bits as with one, within the update."""

    def trained() -> dict[str, torch.Tensor]:
        backend = backend_of(tiny_folder, plan, released=True, groups_experts=True)
        for number in (1, 2):
            step(backend, number, bf16_batch(number))
        return snapshot(backend.tensors())

    joined, copies = base_weights.joined, []

    def counted(tensors: list[torch.Tensor]) -> torch.Tensor:
        whole = joined(tensors)
        copies.append(whole.data_ptr() != tensors[0].data_ptr())
        return whole

    monkeypatch.setattr(base_weights, "joined", counted)
    in_place = trained()
    assert copies
    assert not any(copies)
    monkeypatch.setattr(base_weights, "joined", lambda tensors: torch.cat(list(tensors)))

    assert same(in_place, trained())
    kept = backend_of(tiny_folder, plan, groups_experts=True)
    for number in (1, 2):
        step(kept, number, bf16_batch(number))
    assert same(in_place, snapshot(kept.tensors()))
