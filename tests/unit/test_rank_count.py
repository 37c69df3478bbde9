"""How many processes train a run: one for each GPU, as far as they share a step evenly."""

import os
from pathlib import Path
from typing import Any

import pytest

from services.trainer.ranks import ranks_for
from tests.unit.config_examples import import_small
from trainer_core.config.plan import Plan
from trainer_core.errors import DeviceError
from trainer_core.process.rank_count import most_ranks, require_even, visible_gpus


def plan_of(gpus: int, accumulated: int = 1, **options: Any) -> Plan:
    written = {"num_processes": gpus, "gradient_accumulation_steps": accumulated, **options}
    return import_small(written, without=("lora_type",) if "model_type" in options else ()).plan


@pytest.mark.parametrize(
    ("planned", "accumulated", "places", "expected"),
    [
        (1, 4, 8, 1),
        (2, 1, 2, 2),
        (2, 3, 1, 1),
        (4, 1, 3, 2),  # three cannot share four batches
        (4, 3, 3, 3),
        (3, 1, 2, 1),
    ],
)
def test_a_run_takes_the_gpus_that_share_a_step_evenly(
    planned: int, accumulated: int, places: int, expected: int
) -> None:
    assert most_ranks(plan_of(planned, accumulated).identity, places) == expected


def test_ranks_that_cannot_share_a_step_are_refused() -> None:
    identity = plan_of(2, 2).identity

    require_even(identity, 4)
    with pytest.raises(DeviceError, match="4 micro-batches, which 3 ranks cannot share evenly"):
        require_even(identity, 3)


@pytest.mark.parametrize(
    ("shown", "expected"), [(None, 4), ("3", 1), ("0, 2", 2), ("-1", 0), ("", 0)]
)
def test_gpus_that_cuda_does_not_show_are_not_there(
    tmp_path: Path, shown: str | None, expected: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    env = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}

    assert visible_gpus(env, tmp_path) == expected


def test_a_worker_without_gpus_starts_a_rank_for_each_core_unless_it_needs_one() -> None:
    hidden, cores = {"CUDA_VISIBLE_DEVICES": ""}, len(os.sched_getaffinity(0))

    assert ranks_for(plan_of(2), needs_gpu=False, env=hidden) == min(2, cores)
    assert ranks_for(plan_of(2), needs_gpu=True, env=hidden) == 1
    assert ranks_for(plan_of(4, model_type="full"), needs_gpu=True, env=hidden) == 4
