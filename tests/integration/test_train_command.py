"""`python -m trainer_core train`: its events, folders and exit status, from job to result."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, server_of
from tests.support.jobs import Event, events_in, start_train, train, wait_for_event
from tests.support.small_jobs import STEPS, Small, named, small_job
from tests.support.waiting import wait_until
from tests.support.zygote import Zygote
from trainer_core.checkpoint.folders import committed_checkpoints
from trainer_core.process.supervision import EXIT_ORPHANED


@pytest.fixture(scope="module")
def finished(
    tiny_folder: Path, small_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    folder = tmp_path_factory.mktemp("finished")
    job = small_job(tiny_folder, small_shards, folder)
    status, events = train(job, folder, fresh=True)
    assert status == 0, (folder / "output.log").read_text()
    return folder / "output", events


def test_events_report_the_run_in_order(finished: tuple[Path, list[Event]]) -> None:
    _, events = finished

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    (plan,) = named(events, "plan")
    assert plan["trainable_modules"] == 24
    assert plan["trainable_parameters"] == 7704
    assert plan["steps"] == STEPS
    assert [event["step"] for event in named(events, "step")] == [1, 2, 3]
    assert [event["learning_rate"] for event in named(events, "step")] == [0.005, 0.01, 0.01]
    before, after = named(events, "eval")
    assert (before["step"], after["step"]) == (0, STEPS)
    assert len(before["losses"]) == len(after["losses"]) == 64
    assert before["losses"] != after["losses"]
    assert [event["step"] for event in named(events, "checkpoint")] == [2, 3]
    stages = [event["stage"] for event in named(events, "stage")]
    assert stages[0] == "loading"
    assert stages[-2:] == ["sampling", "finalizing"]
    assert events[-1]["event"] == "finished"


def test_events_report_how_long_the_start_took(finished: tuple[Path, list[Event]]) -> None:
    _, events = finished

    (plan,) = named(events, "plan")
    (started,) = (event for event in named(events, "stage") if "timings" in event)

    assert plan["weights"] == "published"
    loading = ["process_s", "vae_s", "weights_s", "network_s", "optimizer_s"]
    assert list(plan["timings"]) == [*loading, "total_s"]
    first = ["resume_s", "validation_s", "first_step_s", "total_s", "shard_wait_s"]
    assert list(started["timings"]) == [*loading, *first]
    assert (started["stage"], started["step"]) == ("training", 1)
    assert events.index(named(events, "step")[0]) == events.index(started) + 1
    assert all(seconds >= 0 for seconds in started["timings"].values())
    # The event file is opened a little after the process starts.
    assert started["t_s"] <= started["timings"]["total_s"] <= started["t_s"] + 30


def test_events_and_manifests_have_the_files_digests_and_sizes(
    finished: tuple[Path, list[Event]],
) -> None:
    output, events = finished

    for event in (*named(events, "checkpoint"), events[-1]):
        folder = output / event["path"]
        body = (folder / "manifest.json").read_bytes()
        assert hashlib.sha256(body).hexdigest() == event["manifest_sha256"]
        manifest = json.loads(body)
        files = manifest["files"] | manifest.get("scalars", {}).get("adapter_files", {})
        assert files.keys() | {"manifest.json"} == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        size = sum(facts["size_bytes"] for facts in files.values()) + len(body)
        assert size == event["size_bytes"]
        for name, facts in files.items():
            content = (folder / name).read_bytes()
            assert facts["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_result_has_adapter_image_and_card(finished: tuple[Path, list[Event]]) -> None:
    output, events = finished
    result = output / "result"

    names = {p.relative_to(result).as_posix() for p in result.rglob("*") if p.is_file()}
    assert names == {
        "manifest.json",
        "pytorch_lora_weights.safetensors",
        "lycoris_config.json",
        "samples/0.png",
        "card.json",
    }
    with Image.open(result / "samples" / "0.png") as picture:
        assert picture.size == (64, 64)
    card = json.loads((result / "card.json").read_text())
    assert card["steps"] == STEPS
    assert card["loss"]["before"]["mean"] == named(events, "eval")[0]["mean"]
    assert card["loss"]["after"]["held_out_mean"] == named(events, "eval")[1]["held_out_mean"]


def test_sigterm_saves_a_checkpoint_and_a_resume_finishes(
    tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    job = small_job(
        tiny_folder, small_shards, tmp_path, max_train_steps=500, checkpoint_step_interval=500
    )
    process = start_train(job, tmp_path)
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step" and e["step"] >= 2)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 75
    events = events_in(tmp_path)
    assert events[-1]["event"] == "stopped"
    (checkpoint,) = named(events, "checkpoint")
    assert checkpoint["step"] == events[-1]["step"] == named(events, "step")[-1]["step"]
    last = checkpoint["step"]
    resumed = small_job(tiny_folder, small_shards, tmp_path, max_train_steps=last + 1)
    resumed["resume_from"] = str(tmp_path / "output" / checkpoint["path"])
    resumed["plan"]["operation"]["checkpoint_step_interval"] = 500
    status, after = train(resumed, tmp_path / "again")
    assert status == 0
    assert [event["step"] for event in named(after, "step")] == [last + 1]
    assert [event["step"] for event in named(after, "eval")] == [last + 1]


def test_the_control_file_pauses_and_stops(
    tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    job = small_job(tiny_folder, small_shards, tmp_path, max_train_steps=500)
    control = tmp_path / "control"
    control.write_text("pause")
    process = start_train(job, tmp_path)
    wait_for_event(process, tmp_path, lambda e: e.get("stage") == "paused")
    assert not named(events_in(tmp_path), "step")

    _say(control, "run")
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step")
    _say(control, "stop")

    assert process.wait(timeout=60) == 75
    events = events_in(tmp_path)
    assert sum(event.get("stage") == "paused" for event in events) == 1
    assert events[-1]["event"] == "stopped"


def _say(control: Path, word: str) -> None:
    draft = control.with_suffix(".new")
    draft.write_text(word)
    draft.replace(control)


def test_as_many_checkpoints_are_kept_as_the_job_says(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small(max_train_steps=5, checkpoint_step_interval=1)
    job["keep_checkpoints"] = 3

    status, events = zygote.train(job, tmp_path)

    assert status == 0
    assert [event["step"] for event in named(events, "checkpoint")] == [1, 2, 3, 4, 5]
    kept = committed_checkpoints(tmp_path / "output/checkpoints")
    assert [path.name for path in kept] == [f"step-{step:08d}" for step in (3, 4, 5)]


def test_training_waits_while_two_checkpoints_are_not_stored(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small(max_train_steps=5, checkpoint_step_interval=1) | {"waiting_checkpoints": 2}
    checkpoints = tmp_path / "output/checkpoints"

    def steps() -> list[int]:
        return [event["step"] for event in named(events_in(tmp_path), "checkpoint")]

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(zygote.train, job, tmp_path)
        wait_until(lambda: steps() == [1, 2], what="two checkpoints")
        time.sleep(0.5)  # time for some steps, if it did not wait
        assert named(events_in(tmp_path), "step")[-1]["step"] == 2
        for stored in (1, 2, 3):
            shutil.rmtree(checkpoints / f"step-{stored:08d}")
            wait_until(lambda: steps()[-1] == stored + 2, what="the next one")  # noqa: B023
        status, events = run.result()

    assert status == 0
    assert events[-1]["event"] == "finished"  # nobody need store the last one before the result
    assert [path.name for path in committed_checkpoints(checkpoints)] == [
        "step-00000004",
        "step-00000005",
    ]


def test_the_step_of_a_checkpoint_is_reported_even_where_few_steps_are(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small(max_train_steps=500, checkpoint_step_interval=3)

    killed, events = zygote.train(job, tmp_path, {"FAULT_AT": "train.after_step@10=kill"})

    assert killed == -9
    reported = [(event["event"], event["step"]) for event in events]
    for step in (3, 6, 9):
        assert reported.count(("step", step)) == 1
        assert reported.index(("step", step)) < reported.index(("checkpoint", step))
    assert all(event["balance_loss"] is None for event in named(events, "step"))


def test_the_plan_event_reports_the_bases_preparation(
    finished: tuple[Path, list[Event]],
) -> None:
    _, events = finished

    (plan,) = named(events, "plan")

    assert [step.split()[0] for step in plan["preparation"]] == ["moved", "quantized", "multiplies"]


def test_the_child_ends_with_its_supervisor(
    tiny_folder: Path, small_shards: Path, tmp_path: Path
) -> None:
    """Another process starts the child, as its supervisor, and is killed.

    The child is a fork; the program that asked for it ends when the child does.
    """
    job = small_job(tiny_folder, small_shards, tmp_path, max_train_steps=5000)
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = (
        "import subprocess, sys\n"
        "from trainer_core.process.supervision import current_process_token as token\n"
        "child = subprocess.Popen([*sys.argv[1:], 'train',\n"
        "    '--job', 'job.json', '--events', 'events.jsonl', '--supervisor', token()])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, *child_command(server_of(TRAINING).address)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert supervisor.stdout is not None
    pidfd = os.pidfd_open(int(supervisor.stdout.readline()))
    try:
        (tmp_path / "output.log").touch()
        wait_for_event(supervisor, tmp_path, lambda e: e["event"] == "stage")

        supervisor.kill()
        supervisor.wait()

        import select

        assert select.select([pidfd], [], [], 30)[0], "the child outlived its supervisor"
    finally:
        os.close(pidfd)
    assert EXIT_ORPHANED == 70
