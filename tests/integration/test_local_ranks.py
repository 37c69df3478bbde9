"""`reverie train` with several processes: their run is that of one, and it stops and goes on."""

import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import Event, events_in
from tests.support.local_commands import STEPS, Commands
from tests.support.ranks import two_nodes
from tests.support.small_jobs import named
from tests.support.waiting import wait_until
from trainer_core.local.ranks import command_elsewhere
from trainer_core.process.control import ControlRequest, write_control

SHARED = ("--set", "num_processes=2", "--set", "optimizer=adamw_bf16")
_STOPPED = 75


def state_of(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoints/step-{STEPS:08d}/state.safetensors")


def assert_close(expected: Path, found: Path) -> None:
    states = state_of(expected), state_of(found)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=2e-5, rtol=1e-3, msg=name)


def told(events: list[Event]) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in events if event["event"] != "warning"]


def test_ranks_that_cannot_share_a_step_are_refused_at_once(
    commands: Commands, tmp_path: Path
) -> None:
    status, said = commands.train(tmp_path, *SHARED, "--ranks", "3")

    assert status == 1
    assert "2 micro-batches, which 3 ranks cannot share evenly" in commands.error_of(said)
    assert not (tmp_path / "job.json").exists()


@pytest.mark.deep
def test_two_processes_train_what_one_trains(commands: Commands, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    status, said = commands.train(alone, *SHARED)
    assert status == 0, said

    status, said = commands.train(together, *SHARED, "--ranks", "2")

    assert status == 0, said
    assert f"result {together / 'result'}" in " ".join(said.split())
    assert_close(alone, together)
    events = events_in(together)
    assert told(events) == told(events_in(alone))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "2 ranks: the adapter's gradients are" in str(named(events, "plan")[0]["preparation"])
    boards = [sorted(path.name for path in folder.iterdir()) for folder in (alone, together)]
    assert boards[1] == sorted([*boards[0], "ranks"])


@pytest.mark.deep
def test_a_stop_saves_and_one_process_goes_on(commands: Commands, tmp_path: Path) -> None:
    output = tmp_path / "output"
    more = (*SHARED, "--set", "lr_scheduler=constant", "--set", "checkpoint_step_interval=9999")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(
            commands.train, output, *more, "--set", "max_train_steps=9999", "--ranks", "2"
        )
        wait_until(
            lambda: named(events_in(output), "step") or run.done(), what="a step", deadline_s=120
        )
        write_control(output / "control", ControlRequest.STOP)
        status, said = run.result()

    assert status == _STOPPED, said
    (stopped,) = named(events_in(output), "stopped")
    assert stopped["step"] > 0
    assert [event["step"] for event in named(events_in(output), "checkpoint")] == [stopped["step"]]
    last = stopped["step"] + 1
    status, said = commands.train(output, *more, "--set", f"max_train_steps={last}")
    assert status == 0, said
    assert events_in(output)[-1]["event"] == "finished"
    assert "The run resumes with ranks 1, not 2." in said


@pytest.mark.deep
def test_two_machines_train_what_one_process_trains(commands: Commands, tmp_path: Path) -> None:
    """The second one runs what the first one says."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    status, said = commands.train(alone, *SHARED)
    assert status == 0, said
    _, _, _, endpoint = two_nodes()
    env = {"PET_NNODES": "2", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": endpoint}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(commands.train, together, *SHARED, "--ranks", "1", **env)
        command = command_elsewhere(together / "job.json", together, 1)
        _, _, module, *argv = shlex.split(command)
        status = commands.zygote.run(module, argv, tmp_path / "second.log", env)

    assert status == 0, (tmp_path / "second.log").read_text()
    status, said = first.result()
    assert status == 0, said
    assert command in said.replace("\n", "")
    assert_close(alone, together)


@pytest.mark.deep
def test_the_failure_of_a_rank_is_that_of_the_run(commands: Commands, tmp_path: Path) -> None:
    status, said = commands.train(
        tmp_path, *SHARED, "--ranks", "2", FAULT_AT="train.before_step@2=raise"
    )

    assert status == 1
    (failed,) = named(events_in(tmp_path), "failed")
    assert failed["code"] == "injected_fault"
    assert failed["message"].startswith("rank ")
    assert "fault injected at train.before_step" in commands.error_of(said)
