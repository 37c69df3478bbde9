"""`reverie train` without the service: to the end, stopped and resumed, killed and restarted."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from tests.support.forking import Process
from tests.support.hub import USER, HubServer
from tests.support.jobs import events_in, wait_for_event
from tests.support.local_runs import (
    adapter_of,
    entry_times,
    log_of,
    make_project,
    start,
    train,
)
from tests.support.planted_pictures import UNUSABLE, plant_unusable
from tests.support.plots import tensorboard_points
from trainer_core.data.folder import list_files

STEPS = 8


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), max_train_steps=STEPS)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    server = HubServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def unbroken(
    project: Path,
    tiny_models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    hub: HubServer,
) -> Path:
    """The output folder of a run that nothing disturbed, and that was published."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    asked = ("push_to_hub=true", "hub_model_id=photos", "push_checkpoints_to_hub=true")
    status, said = train(
        project,
        output,
        tiny_models_dir,
        *(f"--set={each}" for each in asked),
        HF_TOKEN=hub.token,
        HF_ENDPOINT=hub.url,
        HF_HUB_DISABLE_XET="1",
    )
    assert status == 0, log_of(output)
    assert said.split() == ["result", str(output / "result")]
    return output


def test_a_run_shows_what_it_read_and_writes_result_events_and_plots(unbroken: Path) -> None:
    log = log_of(unbroken)
    for text in ("lycoris_config.json", "multidatabackend.json", f"step {STEPS}/{STEPS}: loss "):
        assert text in log
    assert log.count("`reverie validate --all` names them") == 1
    events = events_in(unbroken)
    assert events[-1]["event"] == "finished"
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages[:4] == ["scanning", "base_model", "caching", "loading"]
    assert {path.name for path in (unbroken / "checkpoints").iterdir()} == {
        "step-00000003",
        "step-00000006",
        "step-00000008",
    }
    points = tensorboard_points(unbroken / "logs" / "eval_loss_test1")
    assert [step for step, _ in points["train/loss"]] == list(range(1, STEPS + 1))


def test_cut_captions_are_told_and_counted_in_the_card(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    project, output = make_project(tmp_path / "project", max_train_steps=1), tmp_path / "run"
    (project.parent / "photos" / "train" / "grass.txt").write_text("blades of grass, " * 20)
    status, _ = train(project, output, tiny_models_dir)
    assert status == 0, log_of(output)
    tokenizers = [
        AutoTokenizer.from_pretrained(tiny_models_dir / "hidream-tiny" / name)
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")
    ]
    captions = [path.read_text().strip() for path in (project.parent / "photos").rglob("*.txt")]
    tokens = [max(len(each(text)["input_ids"]) for each in tokenizers) for text in captions]
    cut = sum(number > 128 for number in tokens)
    assert cut == 1

    facts = json.loads((output / "result" / "card.json").read_text())["captions"]
    (plan,) = (event for event in events_in(output) if event["event"] == "plan")

    assert facts == {
        "number": len(captions),
        "cut": 1,
        "longest_tokens": max(tokens),
        "limit_tokens": 128,
        "is_estimate": False,
    }
    warning = next(text for text in plan["warnings"] if "text encoders take" in text)
    assert warning.startswith(f"1 of {len(captions)} captions ")
    assert warning.endswith(f"the longest has {max(tokens)}): grass.jpg.")
    assert warning in log_of(output)


def test_the_output_of_a_run_is_no_data(unbroken: Path) -> None:
    files = list_files(unbroken.parent)

    assert (unbroken / "result" / "samples" / "0.png").is_file()
    assert files.own_output == (unbroken.name,)
    assert not files.images


def test_it_publishes_its_checkpoints_and_its_result(unbroken: Path, hub: HubServer) -> None:
    published = hub.repos[f"{USER}/photos"]
    result = unbroken / "result" / "pytorch_lora_weights.safetensors"
    assert published.files["pytorch_lora_weights.safetensors"] == result.read_bytes()
    assert published.commits[-1].summary == "Result"
    assert published.commits[0].summary == "Checkpoint at step 3"
    assert "checkpoint-3/README.md" in published.files
    assert f"{hub.url}/{USER}/photos" in log_of(unbroken)
    assert "hf_" not in log_of(unbroken)


def test_sigterm_stops_with_a_checkpoint_and_the_same_command_ends_with_the_same_bits(
    project: Path, unbroken: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start(project, output, tiny_models_dir)
    wait_for_event(process, output, lambda e: e["event"] == "step")

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 75
    stopped = events_in(output)[-1]
    assert stopped["event"] == "stopped"
    assert 0 < stopped["step"] < STEPS
    before = entry_times(output)
    status, _ = train(project, output, tiny_models_dir)
    assert status == 0, log_of(output)
    assert entry_times(output) == before
    steps = [event["step"] for event in events_in(output) if event["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    assert adapter_of(output) == adapter_of(unbroken)


def test_faults_among_the_pictures_are_named_and_the_rest_trains(
    project: Path, unbroken: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "project" / "photos" / "train"
    shutil.copytree(project.parent, tmp_path / "project")
    plant_unusable(photos)  # five of ten pictures cannot be read
    before = contents(photos.parent)

    status, _ = train(tmp_path / "project" / "config", tmp_path / "run", tiny_models_dir)

    log = log_of(tmp_path / "run")
    assert status == 0, log
    for name in (*UNUSABLE, "latin.txt", "tiny.png", "silent.png"):
        assert name in log, name
    assert adapter_of(tmp_path / "run") == adapter_of(unbroken)
    assert contents(photos.parent) == before


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Path → bytes, time of change and mode of each file, and of each folder without bytes."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
    }


def test_a_missing_folder_is_named_with_the_places_that_were_tried(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project")
    (project.parent / "photos" / "held_out").rename(tmp_path / "elsewhere")

    status, _ = train(project, tmp_path / "run", tiny_models_dir)

    assert status == 1
    log = log_of(tmp_path / "run")
    assert "held-out: instance_data_dir names photos/held_out" in log
    assert str(project.parent / "photos" / "held_out") in log
    assert not (tmp_path / "run").exists()


@pytest.mark.deep
def test_sigterm_while_caching_harms_nothing(
    project: Path, unbroken: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start(project, output, tiny_models_dir)
    wait_for_event(process, output, lambda e: e.get("stage") == "caching")

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 75
    assert events_in(output)[-1].items() >= {"event": "stopped", "step": 0}.items()
    status, _ = train(project, output, tiny_models_dir)
    assert status == 0, log_of(output)
    assert adapter_of(output) == adapter_of(unbroken)


@pytest.mark.deep
@pytest.mark.parametrize(
    "fault",
    [
        "encode.before_write@1",
        "encode.before_rename@2",
        "encode.after_rename@3",
        "train.after_step@5",
        "checkpoint.before_rename@1",
        "checkpoint.after_rename@2",
        "result.before_rename",
        "train.before_finished",
    ],
)
def test_a_kill_at_any_point_costs_no_entry_and_changes_no_bit(
    project: Path, unbroken: Path, tiny_models_dir: Path, tmp_path: Path, fault: str
) -> None:
    output = tmp_path / "run"

    status, _ = train(project, output, tiny_models_dir, FAULT_AT=f"{fault}=kill")

    assert status == -signal.SIGKILL
    before = entry_times(output)
    for name in before:
        with safe_open(output / "cache" / name, framework="np") as entry:
            assert list(entry.keys())
    status, _ = train(project, output, tiny_models_dir)
    assert status == 0, log_of(output)
    assert before.items() <= entry_times(output).items()
    assert not list((output / "cache").glob(".*.tmp"))
    assert adapter_of(output) == adapter_of(unbroken)


@pytest.mark.deep
def test_the_control_file_pauses_and_stops_and_a_second_run_is_refused_meanwhile(
    project: Path, unbroken: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    (output / "control").parent.mkdir()
    (output / "control").write_text("stop")  # of an earlier run
    process = start(project, output, tiny_models_dir, "--set", "max_train_steps=5000")
    wait_for_event(process, output, lambda e: e["event"] == "step")
    (output / "control").write_text("pause")
    wait_for_event(process, output, lambda e: e.get("stage") == "paused")

    status, _ = train(project, output, tiny_models_dir)

    assert status == 1
    assert f"process {process.pid} is training in {output}" in log_of(output)
    (output / "control").write_text("stop")
    assert process.wait(timeout=60) == 75


@pytest.mark.deep
def test_one_interrupt_stops_with_a_checkpoint_and_a_second_at_once(
    project: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start(project, output, tiny_models_dir, "--set", "max_train_steps=5000")
    wait_for_event(process, output, lambda e: e["event"] == "step")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75
    assert events_in(output)[-1]["event"] == "stopped"
    seen = len(events_in(output))

    process = start(project, output, tiny_models_dir, "--set", "max_train_steps=5000")
    wait_for_event(process, output, lambda e: e["seq"] > seen and e.get("stage") == "loading")
    process.send_signal(signal.SIGINT)  # acted on at the next step; the model is being loaded
    wait_for_log(process, output, "Ctrl-C again")
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    assert events_in(output)[-1]["code"] == "interrupted"
    assert "Traceback" not in log_of(output)


def wait_for_log(process: Process, output: Path, text: str) -> None:
    """Until the process has said so once more than its log says now."""
    deadline = time.monotonic() + 60
    while log_of(output).count(text) < 2:
        assert process.poll() is None, log_of(output)
        assert time.monotonic() < deadline
        time.sleep(0.01)
