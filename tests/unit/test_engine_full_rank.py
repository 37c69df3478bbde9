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
from trainer_core.errors import NonFiniteLossError
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import compute_on

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


def backend_of(
    tiny_folder: Path, plan: Plan, *, trained: str = "bf16", name: str = "adamw", **identity: Any
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
    document = plan.model_dump(mode="json") | {"identity": given | identity}
    changed = Plan.model_validate(document)
    compute = compute_on(CPU, changed.identity.precision, trains_base=True)
    transformer = load_transformer(tiny_folder, compute.weights)
    return SingleProcess(prepare(transformer, changed, compute), changed)


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
