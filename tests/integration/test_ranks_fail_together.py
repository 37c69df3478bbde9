"""Several ranks under a launcher: one that fails, is killed, or is asked to stop ends all."""

import os
import shutil
import signal
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from services.trainer.child import Child, training_command
from services.trainer.failures import failure_of_child
from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, Process, server_of
from tests.support.jobs import change_entry, events_in, wait_for_event
from tests.support.ranks import END_S, all_end, children_of, full_job, launch, two_nodes
from tests.support.waiting import wait_until
from trainer_core.checkpoint.folders import committed_checkpoints, read_manifest
from trainer_core.config.plan import Plan
from trainer_core.data.entry_files import entry_name
from trainer_core.data.index import DataIndex
from trainer_core.data.orders import sampler_of
from trainer_core.process.control import ControlRequest, write_control
from trainer_core.process.job import Job
from trainer_core.process.ranks import log_file_of
from trainer_core.process.stat import identify

deep = pytest.mark.deep
LONG = 500
CHECKPOINT_POINTS = ("checkpoint.before_state", "checkpoint.in_state")
POINTS = (
    "train.loaded",
    "train.before_launch@3",
    "train.after_backward@4",
    "train.before_step@3",
    "train.after_step@2",
)
"""Of a step; two micro-batches of a step are a rank's."""


@pytest.fixture(scope="module")
def job(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return full_job(tiny_folder, tmp_path_factory.mktemp("shards"), Path("unused"))


def with_output(job: dict[str, Any], folder: Path, steps: int | None = None) -> dict[str, Any]:
    """The job in a folder of its own. ``steps``: the only checkpoint is the one of a stop."""
    plan = job["plan"]
    if steps is not None:
        identity = {**plan["identity"], "max_train_steps": steps}
        operation = {**plan["operation"], "checkpoint_step_interval": steps}
        plan = {**plan, "identity": identity, "operation": operation}
    return {**job, "plan": plan, "output_dir": str(folder / "output")}


def ended(process: Process, folder: Path, *, node: str = "output") -> tuple[int, str]:
    """Exit status of a launcher, and what it printed."""
    status = process.wait(timeout=120)
    return status, (folder / f"{node}.log").read_text()


def few(*cases: tuple[Any, ...]) -> Any:
    """The last one as a parameter set, for the longer tests unless it is one of the others."""
    *usual, case = cases
    return pytest.param(*case, marks=() if case in usual else deep)


FAILURES = {
    "kill": ("child_died", "infra", "SIGKILL"),
    "raise": ("injected_fault", "infra", "fault injected"),
    "memory": ("out_of_memory", "user", "memory is too small"),
}


@pytest.mark.parametrize(
    ("action", "point", "rank"),
    [
        few(("kill", "train.before_step@3", 1), ("memory", "train.after_backward@4", 1), each)
        for each in product(FAILURES, (*POINTS, *CHECKPOINT_POINTS), (0, 1))
    ],
)
def test_the_failure_of_any_rank_is_the_outcome_of_the_run(
    job: dict[str, Any], tmp_path: Path, action: str, point: str, rank: int
) -> None:
    fault = {"FAULT_AT": f"{point}={action}", "FAULT_RANK": str(rank)}

    status, log = ended(launch(with_output(job, tmp_path), tmp_path, fault), tmp_path)

    assert status == 1, log
    code, category, words = FAILURES[action]
    last = events_in(tmp_path)[-1]
    assert (last["event"], last["code"], last["category"]) == ("failed", code, category), log
    assert last["message"].startswith(f"rank {rank}: ")
    assert words in last["message"]
    if rank > 0:
        assert f"the end of rank-0000{rank}.log:" in log
        assert action == "kill" or f"fault injected at {point[:9]}" in log
        assert log_file_of(tmp_path, rank).exists()
    saved = [read_manifest(each).step for each in checkpoints_in(tmp_path)]
    assert saved == ([] if point == "train.loaded" else saved[:1])
    assert not [each for each in events_in(tmp_path) if each["step"] > 3]


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=deep)])
def test_a_rank_killed_while_all_write_a_checkpoint_leaves_the_one_before(
    job: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    fault = {"FAULT_AT": "checkpoint.in_state@2=kill", "FAULT_RANK": str(rank)}

    status, log = ended(launch(with_output(job, tmp_path), tmp_path, fault), tmp_path)

    assert (status, events_in(tmp_path)[-1]["code"]) == (1, "child_died"), log
    saved = [event["step"] for event in events_in(tmp_path) if event["event"] == "checkpoint"]
    assert len(saved) == 1
    assert [read_manifest(each).step for each in checkpoints_in(tmp_path)] == saved


def checkpoints_in(folder: Path) -> list[Path]:
    place = folder / "output/checkpoints"
    return committed_checkpoints(place) if place.exists() else []


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=deep)])
def test_a_damaged_entry_that_one_rank_reads_ends_all(
    job: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    index, plan = DataIndex.model_validate(job["index"]), Plan.model_validate(job["plan"])
    shards = tmp_path / "shards"
    shutil.copytree(job["shards_dir"], shards)
    sample = index.samples[sampler_of(plan.identity, index).micro_batch(rank).samples[0]]
    entry = shards / entry_name(index.entries[sample.latents].digest)
    body = bytearray(entry.read_bytes())
    body[-1] ^= 1
    entry.write_bytes(body)

    started = launch(with_output(job, tmp_path) | {"shards_dir": str(shards)}, tmp_path)

    status, log = ended(started, tmp_path)
    assert status == 1, log
    last = events_in(tmp_path)[-1]
    assert (last["code"], last["category"]) == ("shard_corrupt", "infra"), log


@deep
def test_a_loss_that_is_not_finite_is_the_users(job: dict[str, Any], tmp_path: Path) -> None:
    index = DataIndex.model_validate(job["index"])
    shards = tmp_path / "shards"
    shutil.copytree(job["shards_dir"], shards)
    for sample in index.samples:
        if not sample.held_out:
            change_entry(
                shards / entry_name(index.entries[sample.latents].digest), "latents", spoil
            )

    started = launch(with_output(job, tmp_path) | {"shards_dir": str(shards)}, tmp_path)

    status, log = ended(started, tmp_path)
    assert status == 1, log
    last = events_in(tmp_path)[-1]
    assert (last["code"], last["category"]) == ("non_finite_loss", "user"), log


def spoil(tensors: dict[str, Any]) -> None:
    tensors["mean"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("point", "rank"),
    [few(("train.after_backward@4", 1), each) for each in product(POINTS, (0, 1))],
)
def test_sigterm_to_any_rank_stops_all_with_one_checkpoint(
    job: dict[str, Any], tmp_path: Path, point: str, rank: int
) -> None:
    fault = {"FAULT_AT": f"{point}=stop", "FAULT_RANK": str(rank)}

    status, log = ended(launch(with_output(job, tmp_path, LONG), tmp_path, fault), tmp_path)

    assert status == 75, log
    last = events_in(tmp_path)[-1]
    assert last["event"] == "stopped", log
    assert last["step"] <= 3  # asked for in the third step at the latest
    saved = [read_manifest(each).step for each in checkpoints_in(tmp_path)]
    assert saved == ([last["step"]] if last["step"] else [])


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=deep)], ids=lambda n: n.name
)
def test_a_signal_to_the_launcher_stops_all_with_one_checkpoint(
    job: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    process = launch(with_output(job, tmp_path, LONG), tmp_path)
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step")

    process.send_signal(number)

    status, log = ended(process, tmp_path)
    assert status == 75, log
    last = events_in(tmp_path)[-1]
    assert last["event"] == "stopped", log
    assert [read_manifest(each).step for each in checkpoints_in(tmp_path)] == [last["step"]]


@deep
def test_a_second_interrupt_ends_all_at_once(job: dict[str, Any], tmp_path: Path) -> None:
    fault = {"FAULT_AT": "train.before_step@3=stall", "FAULT_RANK": "1"}
    process = launch(with_output(job, tmp_path, LONG), tmp_path, fault)
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step" and e["step"] == 2)

    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)

    status, log = ended(process, tmp_path)
    assert status == 130, log
    assert events_in(tmp_path)[-1]["code"] == "interrupted"
    assert not checkpoints_in(tmp_path)


@pytest.mark.parametrize("victim", ["supervisor", pytest.param("launcher", marks=deep)])
def test_no_rank_survives_its_launcher_nor_its_supervisor(
    job: dict[str, Any], tmp_path: Path, victim: str
) -> None:
    """While they wait for one that does not answer."""
    fault = {"FAULT_AT": "train.before_step@2=stall", "FAULT_RANK": "1"}
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        own = identify(supervisor.pid)
        assert own is not None
        watched = ("--supervisor", f"{own.pid}:{own.start_ticks}")
        process = launch(with_output(job, tmp_path, LONG), tmp_path, fault, arguments=watched)
        wait_for_event(process, tmp_path, lambda e: e["event"] == "step")
        started = children_of(process.pid)
        assert len(started) == 2

        (process if victim == "launcher" else supervisor).kill()

        assert all_end([process.pid, *started])
        supervisor.kill()
    assert events_in(tmp_path)[-1]["event"] == "step"


@deep
def test_a_pause_holds_all_ranks(job: dict[str, Any], tmp_path: Path) -> None:
    process = launch(with_output(job, tmp_path, LONG), tmp_path)
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step")

    write_control(tmp_path / "control", ControlRequest.PAUSE)
    paused = wait_for_event(process, tmp_path, lambda e: e.get("stage") == "paused")
    process.send_signal(signal.SIGTERM)

    status, log = ended(process, tmp_path)
    assert status == 75, log
    assert events_in(tmp_path)[-1]["step"] == paused["step"]
    assert [read_manifest(each).step for each in checkpoints_in(tmp_path)] == [paused["step"]]


@deep
def test_the_failure_of_a_rank_is_that_of_the_workers_child(
    job: dict[str, Any], tmp_path: Path
) -> None:
    """As a trainer of the service starts the ranks, and reads why they failed."""
    fault = {"FAULT_AT": "train.before_step@2=memory", "FAULT_RANK": "1"}
    env = {**os.environ, **dict(TRAINING.env), **fault}
    command = training_command(child_command(server_of(TRAINING).address), 2)
    child = Child(command, Job.model_validate(with_output(job, tmp_path)), tmp_path, env)

    wait_until(lambda: not child.is_running, what="the end of the ranks", deadline_s=120)

    failure = failure_of_child(list(child.events.new_events())[-1].data)
    assert (failure.code, failure.category, failure.retryable) == ("out_of_memory", "user", False)
    assert "the end of rank-00001.log:" in (tmp_path / "output.log").read_text()
    child.kill()


@deep
def test_one_of_four_ranks_that_fails_ends_all(job: dict[str, Any], tmp_path: Path) -> None:
    fault = {"FAULT_AT": "train.before_step@2=raise", "FAULT_RANK": "3"}

    status, log = ended(launch(with_output(job, tmp_path), tmp_path, fault, ranks=4), tmp_path)

    assert status == 1, log
    assert events_in(tmp_path)[-1]["message"].startswith("rank 3: fault injected")


@deep
def test_two_nodes_train_to_the_end(job: dict[str, Any], tmp_path: Path) -> None:
    options = two_nodes()
    nodes = [
        launch(with_output(job, tmp_path), tmp_path, ranks=1, node=node, options=options)
        for node in ("first", "second")
    ]

    ends = [
        ended(n, tmp_path, node=name) for n, name in zip(nodes, ("first", "second"), strict=True)
    ]

    assert [status for status, _ in ends] == [0, 0], ends
    assert events_in(tmp_path)[-1]["event"] == "finished"


def test_a_rank_that_is_killed_ends_the_launchers_of_both_nodes(
    job: dict[str, Any], tmp_path: Path
) -> None:
    options = two_nodes()
    fault = {"FAULT_AT": "train.before_step@2=kill", "FAULT_RANK": "1"}
    nodes = [
        launch(with_output(job, tmp_path), tmp_path, fault, ranks=1, node=node, options=options)
        for node in ("first", "second")
    ]

    ends = [
        ended(n, tmp_path, node=name) for n, name in zip(nodes, ("first", "second"), strict=True)
    ]

    assert [status for status, _ in ends] == [1, 1], ends
    last = events_in(tmp_path)[-1]
    assert (last["code"], last["category"]) == ("child_died", "infra")
    assert last["message"].startswith("rank 1: ")


@deep
def test_nodes_that_do_not_share_the_output_folder_are_told(
    job: dict[str, Any], tmp_path: Path
) -> None:
    options = two_nodes()
    folders = [tmp_path / name for name in ("first", "second")]
    nodes = [
        launch(with_output(job, folder), folder, ranks=1, options=options) for folder in folders
    ]

    ends = [ended(node, folder) for node, folder in zip(nodes, folders, strict=True)]

    assert [status for status, _ in ends] == [1, 1], ends
    assert all("rank 1 does not see what rank 0 writes" in log for _, log in ends), ends
    assert all(process.wait(timeout=END_S) == 1 for process in nodes)
