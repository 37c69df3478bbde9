"""`train` of an adapter on several ranks: the run of one process, and resumes between both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import Event, events_in, start_train, train, wait_for_event
from tests.support.small_jobs import named, small_job
from trainer_core.checkpoint.folders import committed_checkpoints, read_manifest
from trainer_core.process.control import ControlRequest, write_control

STEPS = 4
SHARED = {
    "num_processes": 2,
    "gradient_accumulation_steps": 2,
    "base_model_precision": "int8-quanto",
    "optimizer": "adamw_bf16",
    "learning_rate": 1e-3,
    "use_ema": True,
    "max_train_steps": STEPS,
    "eval_steps_interval": 2,
    "num_eval_images": 2,
    "eval_timesteps": 3,
    "validation_step_interval": 2,
}
LORA = {"lora_type": "standard", "lora_rank": 4, "lora_alpha": 4, "lycoris_config": None}


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    status, _ = train(small_job(tiny_folder, small_shards, folder, **SHARED), folder)
    assert status == 0, log_of(folder)
    return folder


@pytest.fixture(scope="module")
def shared(tiny_folder: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    run_ranks(small_job(tiny_folder, small_shards, folder, **SHARED), folder, 2)
    return folder


def run_ranks(job: dict[str, Any], folder: Path, ranks: int) -> list[Event]:
    assert start_train(job, folder, ranks=ranks).wait(timeout=240) == 0, log_of(folder)
    return events_in(folder)


def log_of(folder: Path) -> str:
    return (folder / "output.log").read_text()[-3000:]


def state_of(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(folder / f"output/checkpoints/step-{step:08d}/state.safetensors")


def assert_close(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """AdamW divides by the size of a gradient, so that a tiny one may turn with its rounding."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-3, msg=name)


def numbers_of(events: list[Event], name: str) -> list[dict[str, float]]:
    """What the events of a name tell, without times."""
    left_out = ("_s", "_bytes")
    return [
        {
            key: value
            for key, value in event.items()
            if isinstance(value, float) and not key.endswith(left_out)
        }
        for event in named(events, name)
    ]


def test_two_ranks_train_what_one_process_trains(whole: Path, shared: Path) -> None:
    alone, together = events_in(whole), events_in(shared)

    for name in ("step", "eval"):
        pairs = zip(numbers_of(alone, name), numbers_of(together, name), strict=True)
        for expected, found in pairs:
            assert found == pytest.approx(expected, rel=1e-4)
    # Of equal weights: bit for bit.
    assert numbers_of(together, "eval")[:2] == numbers_of(alone, "eval")[:2]
    for step in (2, STEPS):
        assert_close(state_of(whole, step), state_of(shared, step))
    # Rank 0 alone writes.
    names = [
        sorted(path.relative_to(folder).as_posix() for path in (folder / "output").rglob("*"))
        for folder in (whole, shared)
    ]
    assert names[0] == names[1]
    told = "2 ranks: the adapter's gradients are summed once a step"
    assert told in named(together, "plan")[0]["preparation"]


def test_four_ranks_go_on_from_two(
    whole: Path, shared: Path, tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    job = small_job(tiny_folder, small_shards, tmp_path, **SHARED)
    job["resume_from"] = str(shared / "output/checkpoints/step-00000002")

    events = run_ranks(job, tmp_path, 4)

    assert [event["step"] for event in named(events, "step")] == [3, 4]
    assert_close(state_of(whole), state_of(tmp_path))


def test_ranks_that_cannot_share_a_step_are_refused(
    tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    job = small_job(tiny_folder, small_shards, tmp_path, **SHARED)

    assert start_train(job, tmp_path, ranks=3).wait(timeout=240) == 1

    (failed,) = named(events_in(tmp_path), "failed")
    assert failed["message"].endswith(
        "a step takes 4 micro-batches, which 3 ranks cannot share evenly: start a number of ranks "
        "that divides 4"
    )


@pytest.mark.deep
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("adapter", [{}, LORA])
def test_each_number_of_ranks_goes_on_from_each(
    tiny_folder: Path, small_shards: Path, tmp_path: Path, ranks: int, adapter: dict[str, Any]
) -> None:
    options = {**SHARED, **adapter}
    first, second = tmp_path / "first", tmp_path / "second"
    job = small_job(tiny_folder, small_shards, first, **options)
    events = run_ranks(job, first, ranks)
    assert events[-1]["event"] == "finished"
    for other in (1, 2, 4):
        folder = second / str(other)
        job = small_job(tiny_folder, small_shards, folder, **options)
        job["resume_from"] = str(first / "output/checkpoints/step-00000002")

        run_ranks(job, folder, other)

        if other == ranks:  # the same sums: bit for bit
            expected, found = state_of(first), state_of(folder)
            assert all(torch.equal(value, found[name]) for name, value in expected.items())
        assert_close(state_of(first), state_of(folder))


@pytest.mark.deep
def test_ranks_stop_at_the_same_step_and_save_it(
    tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    long = {"max_train_steps": 500, "checkpoint_step_interval": 500, "eval_steps_interval": None}
    job = small_job(tiny_folder, small_shards, tmp_path, **{**SHARED, **long})
    process = start_train(job, tmp_path, ranks=2)
    wait_for_event(process, tmp_path, lambda event: event["event"] == "step")

    write_control(tmp_path / "control", ControlRequest.STOP)

    assert process.wait(timeout=60) == 75, log_of(tmp_path)
    events = events_in(tmp_path)
    assert events[-1]["event"] == "stopped", log_of(tmp_path)
    (checkpoint,) = committed_checkpoints(tmp_path / "output/checkpoints")
    assert read_manifest(checkpoint).step == events[-1]["step"]
