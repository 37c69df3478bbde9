"""Runs with LoRA's dropout beside fused blocks: a resume has the bits of a run never interrupted.

The blocks run over the plain twins of the kernels here; ``tests/gpu`` has the same with graphs.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.support.jobs import demo_plan
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.read import Checkpoint
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.fused.build import fused_blocks
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute

LORA = {"lora_type": "standard", "lora_rank": 8, "lora_alpha": 8, "lycoris_config": None}


def plan_of(tiny_folder: Path, dropout: float) -> Plan:
    """LoRA on every linear, and AdamW."""
    base = read_base_model(tiny_folder)
    plan = demo_plan(base, edge_px=64, base_model_precision="no_change", **LORA)
    given = plan.model_dump(mode="json")
    config = dict(load_transformer(tiny_folder, torch.bfloat16).config)
    given["identity"]["adapter"] |= {
        "dropout": dropout,
        "modules": [linear.path for linear in hidream_linears(config)],
    }
    given["identity"]["optimizer"] |= {"name": "adamw", "learning_rate": 1e-2}
    return Plan.model_validate(given)


def backend_of(tiny_folder: Path, plan: Plan, dtype: torch.dtype) -> SingleProcess:
    """Every second block is recomputed."""
    compute = Compute(device=torch.device("cpu"), weights=dtype, is_autocast=False)
    network = prepare(load_transformer(tiny_folder, dtype), plan, compute)
    blocks = fused_blocks(network.transformer, recomputed=frozenset({0, 2}), keeps_transposed=False)
    return SingleProcess(replace(network, blocks=blocks), plan)


def batch_of(number: int, dtype: torch.dtype) -> Batch:
    """One sample, of which every third is one of prior preservation."""
    draw = torch.Generator().manual_seed(number)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    return Batch(
        noisy_BCHW=normal(1, 16, 4, 6),
        target_BCHW=normal(1, 16, 4, 6).float(),
        sigmas_B=torch.rand(1, generator=draw),
        text=TextEmbeddings(normal(1, 5, 48), normal(1, 3, 5, 64), normal(1, 64)),
        is_prior_B=torch.tensor([True]) if number % 3 == 0 else None,
        dropout_seed=torch.tensor(number),
    )


def take(backend: SingleProcess, steps: range, dtype: torch.dtype, drawn_before: int) -> None:
    """``drawn_before``: numbers that something else has drawn from torch's generator."""
    torch.manual_seed(0)
    torch.rand(drawn_before)
    for step in steps:
        batches = [batch_of(2 * step + i, dtype) for i in range(2)]
        backend.launch(batches, count=2, step=step, learning_rate=1e-2).read()


def parameters_of(backend: SingleProcess) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in backend.tensors().parameters.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_resumed_run_has_the_same_bits(tiny_folder: Path, dtype: torch.dtype) -> None:
    plan = plan_of(tiny_folder, 0.3)
    whole, broken, resumed = (backend_of(tiny_folder, plan, dtype) for _ in range(3))
    take(whole, range(1, 6), dtype, drawn_before=0)
    take(broken, range(1, 3), dtype, drawn_before=7)
    saved = broken.tensors()
    resumed.load(
        Checkpoint(
            manifest=cast(Any, None),
            parameters=dict(saved.parameters),
            optimizer_state=dict(saved.optimizer_state),
            ema=dict(saved.ema),
        )
    )
    take(resumed, range(3, 6), dtype, drawn_before=90)

    expected, found = parameters_of(whole), parameters_of(resumed)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_dropout_acts_in_training_and_not_where_losses_are_measured(tiny_folder: Path) -> None:
    dtype = torch.float32
    dropping, without = (
        backend_of(tiny_folder, plan_of(tiny_folder, dropout), dtype) for dropout in (0.3, 0.0)
    )
    for each in (dropping, without):
        take(each, range(1, 3), dtype, drawn_before=0)
    trained, others = parameters_of(dropping), parameters_of(without)
    same = [name for name, value in trained.items() if torch.equal(value, others[name])]
    assert all(".experts." in name for name in same)  # an expert that no token chose

    for name, value in dropping.tensors().parameters.items():
        value.copy_(others[name])
    losses = []
    for each in (dropping, without):
        each._network.transformer.eval()
        with torch.no_grad():
            losses.append(each.losses(batch_of(1, dtype)))
    assert torch.equal(*losses)
