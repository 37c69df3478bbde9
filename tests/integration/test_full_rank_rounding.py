"""Weights in bf16, rounded stochastically, learn as fp32 weights do: 300 steps of a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.test_engine_full_rank import backend_of, batch_of, bf16_batch
from tests.unit.test_engine_full_rank import plan as plan  # noqa: PLC0414 - a fixture
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.kernels import stochastic_rounding
from trainer_core.optim import rounding

STEPS, BATCHES, RATE = 300, 6, 1e-4


def to_nearest(
    x: torch.Tensor, out: torch.Tensor, keys: object, is_written: torch.Tensor, start: int = 0
) -> None:
    """What the stochastic rounding is compared with."""
    out.copy_(torch.where(is_written, x.bfloat16(), out))


def losses(
    tiny_folder: Path, plan: Plan, trained: str, make: Callable[[int], Batch]
) -> list[float]:
    """The mean loss of each turn through the batches."""
    precision = plan.identity.precision.model_dump(mode="json")
    precision |= {"base": "no_change", "compute": "bf16", "trained": trained}
    options: dict[str, Any] = {"trained": trained, "precision": precision}
    backend = backend_of(tiny_folder, plan, released=trained == "bf16", **options)
    batches = [make(seed) for seed in range(BATCHES)]
    found = []
    for number in range(1, STEPS + 1):
        batch = batches[number % BATCHES]
        found.append(backend.launch([batch], count=1, step=number, learning_rate=RATE).read().loss)
    return [sum(found[i : i + BATCHES]) / BATCHES for i in range(0, STEPS, BATCHES)]


@pytest.mark.deep
def test_300_steps_in_bf16_end_where_those_in_fp32_do(
    tiny_folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fp32 = losses(tiny_folder, plan, "fp32", batch_of)
    in_bf16 = losses(tiny_folder, plan, "bf16", bf16_batch)
    monkeypatch.setattr(rounding, "round_to_bf16", to_nearest)
    nearest = losses(tiny_folder, plan, "bf16", bf16_batch)

    told = {"fp32": in_fp32[-1], "bf16": in_bf16[-1], "nearest": nearest[-1], "first": in_fp32[0]}
    print(json.dumps(told))
    learned = in_fp32[0] - in_fp32[-1]
    assert learned > 0.2 * in_fp32[0]
    assert abs(in_bf16[-1] - in_fp32[-1]) < 0.05 * learned
    assert nearest[-1] - in_fp32[-1] > 2 * abs(in_bf16[-1] - in_fp32[-1])
    assert stochastic_rounding.round_to_bf16 is not to_nearest
