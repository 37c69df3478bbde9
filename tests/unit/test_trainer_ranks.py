"""How many processes train a run: one for each GPU, as far as they share a step evenly."""

import os
from pathlib import Path
from typing import Any

import pytest

from services.trainer.ranks import ranks_for
from tests.unit.config_examples import import_small
from trainer_core.config.plan import Plan


def plan_of(gpus: int, accumulated: int = 1, **options: Any) -> Plan:
    written = {"num_processes": gpus, "gradient_accumulation_steps": accumulated, **options}
    return import_small(written, without=("lora_type",) if "model_type" in options else ()).plan


def machine(folder: Path, gpus: int) -> Path:
    for name in (*(f"nvidia{number}" for number in range(gpus)), "nvidiactl", "nvidia-uvm"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("planned", "accumulated", "present", "expected"),
    [
        (1, 4, 8, 1),
        (2, 1, 2, 2),
        (2, 3, 1, 1),
        (4, 1, 3, 2),  # three cannot share four batches
        (4, 3, 3, 3),
        (3, 1, 2, 1),
        (8, 1, 0, 1),  # the device files are elsewhere
    ],
)
def test_an_adapter_takes_the_gpus_that_share_a_step_evenly(
    tmp_path: Path, planned: int, accumulated: int, present: int, expected: int
) -> None:
    plan, devices = plan_of(planned, accumulated), machine(tmp_path, present)

    assert ranks_for(plan, needs_gpu=True, env={}, devices=devices) == expected


@pytest.mark.parametrize(("shown", "expected"), [("3", 1), ("0, 2", 2), ("-1", 1), ("", 1)])
def test_gpus_that_cuda_does_not_show_are_not_there(
    tmp_path: Path, shown: str, expected: int
) -> None:
    env, devices = {"CUDA_VISIBLE_DEVICES": shown}, machine(tmp_path, 4)

    assert ranks_for(plan_of(4), needs_gpu=True, env=env, devices=devices) == expected


def test_without_gpus_a_rank_has_a_core(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))

    assert ranks_for(plan_of(2), needs_gpu=False, env={}, devices=tmp_path) == min(2, cores)
    on_cpu, devices = plan_of(1024, device="cpu"), machine(tmp_path, 1)
    found = ranks_for(on_cpu, needs_gpu=False, env={}, devices=devices)
    assert found <= cores
    assert 1024 % found == 0


def test_all_weights_take_the_ranks_that_they_are_planned_for(tmp_path: Path) -> None:
    plan = plan_of(4, model_type="full")

    assert ranks_for(plan, needs_gpu=True, env={}, devices=machine(tmp_path, 1)) == 4
