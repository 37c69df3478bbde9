"""Steps under every ZeRO stage, on 1, 2 and 4 ranks, equal those of one process without it."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.jobs import demo_plan
from tests.support.zero_ranks import MICRO_BATCHES, Taken, in_one_process, on_ranks
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Plan, ZeroStage

RATE = 1e-4
FEW_STEPS, MANY_STEPS = 4, 30
CLIPS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "norm": {"method": "norm", "limit": 0.5},
    "value": {"method": "value", "limit": 1e-3},
}
FEW = [(1, 2, "norm", "cpu"), ("auto", 2, "value", "auto"), (3, 2, "norm", "none")]
"""Stage, ranks, clipping and offloading of the cases that are not deep."""


def plan_of(
    tiny: Path,
    stage: ZeroStage | None,
    clip: str,
    optimizer: str = "adamw",
    offload: str = "none",
) -> Plan:
    plan = demo_plan(read_base_model(tiny), edge_px=64).model_dump(mode="json")
    plan["identity"] |= {
        "model_type": "full",
        "adapter": None,
        "clip": CLIPS[clip],
        "ema": {"decay": 0.6, "warmup_steps": 1, "update_interval": 2},
        "accumulation_steps": MICRO_BATCHES,
        "optimizer": {
            "name": optimizer,
            "learning_rate": RATE,
            "betas": [0.9, 0.99],
            "eps": 1e-4,  # a gradient near 0 may differ in its last bits
            "weight_decay": 0.01,
        },
    }
    plan["identity"]["precision"] |= {"base": "no_change", "compute": "fp32"}
    plan["operation"] |= {"zero_stage": stage, "zero_offload": offload}
    return Plan.model_validate(plan)


@functools.cache
def alone(tiny: Path, clip: str, optimizer: str, steps: int) -> Taken:
    return in_one_process(tiny, plan_of(tiny, None, clip, optimizer), steps)


def check(found: Taken, expected: Taken) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    assert any(name.startswith("ema/") for name in found.tensors)
    for name, value in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], value, atol=1e-6, rtol=1e-4, msg=name)
    for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
        for name in ("loss", "grad_max", "grad_norm"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4), name
        by_sigma = pytest.approx(list(map(_number, theirs.loss_by_sigma)), rel=1e-4, nan_ok=True)
        assert list(map(_number, ours.loss_by_sigma)) == by_sigma
    # The means are in the model's place, and then the weights again.
    assert found.losses_with_means == pytest.approx(expected.losses_with_means, rel=1e-4)
    assert found.losses_with_means[0] != pytest.approx(found.losses_with_means[1], rel=1e-3)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@pytest.mark.parametrize(("stage", "ranks", "clip", "offload"), FEW)
def test_steps_equal_those_of_one_process(
    tiny_folder: Path, tmp_path: Path, *, stage: ZeroStage, ranks: int, clip: str, offload: str
) -> None:
    """Also the gradient's largest element and norm, the clipped update, and the means."""
    plan = plan_of(tiny_folder, stage, clip, offload=offload)

    found = on_ranks(tiny_folder, plan, FEW_STEPS, ranks, tmp_path)

    check(found, alone(tiny_folder, clip, "adamw", FEW_STEPS))
    told = [each for each in found.preparation if each.startswith("ZeRO stage 2 needs about")]
    assert len(told) == (stage == "auto")  # the tiny model fits any machine


@pytest.mark.deep
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_many_steps_equal_those_of_one_process(
    tiny_folder: Path, tmp_path: Path, stage: int, ranks: int, clip: str
) -> None:
    found = on_ranks(tiny_folder, plan_of(tiny_folder, stage, clip), MANY_STEPS, ranks, tmp_path)

    check(found, alone(tiny_folder, clip, "adamw", MANY_STEPS))


@pytest.mark.deep
@pytest.mark.parametrize(
    ("stage", "ranks", "clip", "optimizer"),
    [
        (1, 2, "norm", "adamw"),
        (2, 1, "value", "optimi-lion"),
        (2, 2, "value", "adamw"),
        (3, 2, "norm", "adamw"),
        (3, 4, "none", "optimi-lion"),
        (3, 2, "value", "optimi-adamw"),
    ],
)
def test_steps_on_offloaded_state_equal_those_of_one_process(
    tiny_folder: Path, tmp_path: Path, *, stage: int, ranks: int, clip: str, optimizer: str
) -> None:
    plan = plan_of(tiny_folder, stage, clip, optimizer, "cpu")

    found = on_ranks(tiny_folder, plan, FEW_STEPS, ranks, tmp_path)

    check(found, alone(tiny_folder, clip, optimizer, FEW_STEPS))
