"""The command line against the real service: API, dispatcher and cache builder; no trainer."""

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from services.client.client import Client
from services.client.errors import ClientError, DatasetRejectedError
from services.client.folder import list_folder
from services.client.push import PushProgress, push_folder
from tests.support.adapter_bytes import lora_bytes, width_of
from tests.support.command_line import CommandLine
from tests.support.fleet import Fleet
from trainer_core.base_models.describe import read_base_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of()
    for name in ("api", "dispatcher", "cache_builder"):
        fleet.start(name)
    fleet.wait_ready()
    return fleet


@pytest.fixture(scope="module")
def reverie(fleet: Fleet) -> CommandLine:
    return CommandLine(fleet)


@pytest.fixture
def client(reverie: CommandLine) -> Iterator[Client]:
    with Client(reverie.url, reverie.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def run_id(reverie: CommandLine) -> str:
    """A run that was submitted the way the README shows."""
    photos = EXAMPLES / "photos"
    submitted = reverie(
        "runs",
        "submit",
        f"--config={EXAMPLES / 'demo'}",
        f"--dataset=photos={photos / 'train'}",
        f"--dataset=held-out={photos / 'held_out'}",
        "--set=max_train_steps=7",
        "--json",
    )
    run = json.loads(submitted.stdout)
    assert (run["status"], run["max_steps"]) == ("queued", 7)
    assert str(EXAMPLES / "demo" / "multidatabackend.json") in submitted.stderr
    return str(run["id"])


def test_submitted_runs_are_listed_and_shown(reverie: CommandLine, run_id: str) -> None:
    listed = json.loads(reverie("runs", "list", "--json").stdout)
    assert run_id in [run["id"] for run in listed["data"]]
    assert run_id in reverie("runs", "list").stdout
    assert json.loads(reverie("runs", "show", run_id, "--json").stdout)["id"] == run_id
    shown = reverie("runs", "show", run_id)
    assert "hidream-tiny" in shown.stdout
    names = json.loads(reverie("datasets", "list", "--json").stdout)["data"]
    assert {dataset["name"] for dataset in names} >= {"train", "held_out"}


def test_ctrl_c_leaves_the_run_and_says_how_to_watch_again(
    reverie: CommandLine, run_id: str
) -> None:
    watching = reverie.start("runs", "watch", run_id)
    assert watching.stdout is not None
    for line in watching.stdout:
        if line.startswith("queued"):
            break
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"reverie runs watch {run_id}" in out
    assert "Traceback" not in err


def test_a_canceled_run_is_watched_to_its_end(reverie: CommandLine, client: Client) -> None:
    photos = EXAMPLES / "photos"
    submitted = reverie(
        "runs",
        "submit",
        f"--config={EXAMPLES / 'demo' / 'config.json'}",
        f"--dataset=photos={photos / 'train'}",
        f"--dataset=held-out={photos / 'held_out'}",
        "--json",
    )
    run_id = json.loads(submitted.stdout)["id"]
    watching = reverie.start("runs", "watch", run_id)
    reverie("runs", "cancel", run_id)
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 1
    assert out.splitlines()[-1] == "canceled"
    assert [event.type for event in client.stream_events(run_id)][-1] == "run.canceled"
    assert "canceled" in reverie("runs", "watch", run_id, status=1).stdout


def test_a_run_is_paused_changed_resumed_and_canceled(
    reverie: CommandLine, client: Client, run_id: str
) -> None:
    datasets = client.get_run(run_id)["datasets"]
    submitted = reverie(
        "runs",
        "submit",
        f"--config={EXAMPLES / 'demo'}",
        *(f"--dataset={backend}={dataset_id}" for backend, dataset_id in datasets.items()),
        "--max-gpu-hours=1.5",
        "--deadline=2030-01-01T12:00",
        "--json",
    )
    other = json.loads(submitted.stdout)
    assert other["max_gpu_hours"] == 1.5
    assert other["deadline"].startswith(("2029-12-31T", "2030-01-01T"))

    assert "paused" in reverie("runs", "pause", other["id"]).stdout
    watched = reverie("runs", "watch", other["id"], status=1).stdout.splitlines()
    assert watched[-2:] == [
        "paused",
        f"{other['id']} is paused. Let it go on: reverie runs resume {other['id']}",
    ]
    changed = reverie("runs", "set", other["id"], "--priority=high", "--deadline=none").stdout
    assert "high" in changed
    assert "1.5" in changed
    assert "deadline" not in changed
    refused = reverie("runs", "set", other["id"], "--max-cost=5", status=1)
    assert "no price" in refused.stderr
    resumed = json.loads(reverie("runs", "resume", other["id"], "--json").stdout)
    assert (resumed["status"], resumed["priority"]) in {("queued", "high"), ("running", "high")}
    assert "canceled" in reverie("runs", "cancel", other["id"], "--now").stdout
    for wrong in ("--max-cost=free", "--max-gpu-hours=0", "--deadline=soon"):
        reverie("runs", "set", other["id"], wrong, status=2)
    reverie("runs", "set", other["id"], status=2)


def test_all_problems_of_a_run_are_reported_at_once(
    reverie: CommandLine, client: Client, run_id: str
) -> None:
    datasets = client.get_run(run_id)["datasets"]
    refused = reverie(
        "runs",
        "submit",
        f"--config={EXAMPLES / 'demo'}",
        *(f"--dataset={backend}={dataset_id}" for backend, dataset_id in datasets.items()),
        "--set=optimiser=adam",
        "--set=max_train_steps=many",
        status=1,
    )
    assert "/config/optimiser: " in refused.stderr
    assert "/config/max_train_steps: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_nothing_is_pushed_for_a_run_with_mistakes(reverie: CommandLine, client: Client) -> None:
    before = client.list_datasets().data
    demo = f"--config={EXAMPLES / 'demo'}"
    refused = reverie("runs", "submit", demo, "--set=optimiser=adam", status=1)
    assert "nothing was pushed\n  /config/optimiser: " in refused.stderr
    assert client.list_datasets().data == before


def test_unknown_keys_and_ids_are_refused_in_one_line(reverie: CommandLine) -> None:
    refused = reverie("--api-key", "rv_wrong", "runs", "list", status=1)
    assert "unauthenticated" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    missing = reverie("runs", "show", "run_" + "0" * 32, status=1)
    assert "not_found" in missing.stderr
    reverie("runs", "submit", "--config=.", "--dataset=nonsense", status=2)


def test_truncated_images_are_named(client: Client, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    truncated = (tmp_path / "good.png").read_bytes()[:60]
    (tmp_path / "truncated.png").write_bytes(truncated)
    dataset = push_folder(client, tmp_path, "half")
    assert [each["pointer"] for each in dataset["left_out"]] == ["truncated.png"]
    (tmp_path / "short.png").write_bytes(truncated)
    with pytest.raises(DatasetRejectedError) as caught:
        push_folder(client, tmp_path, "more than half")
    assert {error.pointer for error in caught.value.errors} == {"", "short.png", "truncated.png"}
    assert "short.png" in str(caught.value)


def test_equal_files_of_a_folder_are_all_in_its_dataset(client: Client, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "a.txt").write_text("a red square")
    (tmp_path / "notes.md").write_text("not a caption")
    (tmp_path / ".hidden.png").write_bytes(b"")
    reported: list[PushProgress] = []
    dataset = push_folder(client, tmp_path, "squares", reported.append)
    assert dataset["status"] == "ready"
    assert (reported[-1].stage, reported[-1].done, reported[-1].total) == ("verifying", 3, 3)
    assert list_folder(tmp_path).others == ("notes.md",)
    again = push_folder(client, tmp_path)
    assert again["id"] != dataset["id"]


def test_a_folder_that_grows_becomes_a_version_of_its_dataset(
    reverie: CommandLine, client: Client, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "in").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (64, 64 + number)).save(photos / "in" / f"{number}.png")
    (photos / "in" / "0.txt").write_text("black")
    old = push_folder(client, photos, "grown")
    shutil.move(photos / "in" / "1.png", photos / "moved.png")
    (photos / "in" / "0.txt").write_text("black as the night")
    Image.new("RGB", (64, 99)).save(photos / "new.png")
    changed = [
        ("changed", "in/0.txt"),
        ("removed", "in/1.png"),
        ("added", "moved.png"),
        ("added", "new.png"),
    ]

    local = json.loads(reverie("datasets", "diff", old["id"], str(photos), "--json").stdout)
    pushed = reverie("datasets", "push", str(photos), f"--based-on={old['id']}", "--json")
    new = json.loads(pushed.stdout)

    assert (new["name"], new["based_on"], new["status"]) == ("grown", old["id"], "ready")
    assert (new["num_files"], new["verified_files"]) == (7, 7)
    found = json.loads(reverie("datasets", "diff", old["id"], new["id"], "--json").stdout)
    assert found["totals"] == {"added": 2, "removed": 1, "changed": 1, "unchanged": 4}
    assert [(each["change"], each["path"]) for each in found["changes"]] == changed
    assert (local["changes"], local["totals"]) == (found["changes"], found["totals"])
    shown = reverie("datasets", "diff", old["id"], new["id"])
    assert shown.stdout.split()[-1] == "new.png"
    assert "2 added, 1 removed, 1 changed, 4 unchanged" in shown.stderr
    assert push_folder(client, photos, "whole")["digest"] == new["digest"]
    facts = reverie("datasets", "show", new["id"]).stdout
    assert new["digest"] in facts
    assert old["id"] in facts

    again = reverie("datasets", "push", str(photos), f"--based-on={new['id']}", "--json")
    assert json.loads(again.stdout)["id"] == new["id"]
    assert f"has the files of {new['id']}; no dataset was made" in again.stderr
    nobody = "ds_" + "0" * 32
    refused = reverie("datasets", "push", str(photos), f"--based-on={nobody}", status=1)
    assert "not_found" in refused.stderr


def test_only_what_is_new_in_a_version_is_sent(client: Client, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 70 + number)).save(tmp_path / f"{number}.png")
    old = push_folder(client, tmp_path)
    Image.new("RGB", (64, 80)).save(tmp_path / "3.png")
    reported: list[PushProgress] = []

    new = push_folder(client, tmp_path, None, reported.append, based_on=old["id"])

    sending = [each for each in reported if each.stage == "uploading"]
    assert (sending[-1].done, sending[-1].total) == (4, 4)
    assert sending[-1].sent_bytes == (tmp_path / "3.png").stat().st_size
    assert new["id"] != old["id"]
    made = client.create_dataset(based_on=new["id"], removed=["0.png"])
    with pytest.raises(ClientError, match="is uploading; a dataset can be based on one that is"):
        push_folder(client, tmp_path, based_on=made["id"])


@pytest.mark.deep
def test_an_interrupted_push_of_a_large_picture_goes_on(client: Client, tmp_path: Path) -> None:
    Image.frombytes("RGB", (3500, 3500), os.urandom(3 * 3500**2)).save(tmp_path / "large.png")
    (tmp_path / "large.txt").write_text("noise")

    def interrupt(progress: PushProgress) -> None:
        if progress.sent_bytes >= 16 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push_folder(client, tmp_path, "large", interrupt)
    reported: list[PushProgress] = []
    dataset = push_folder(client, tmp_path, "large", reported.append)

    assert dataset["status"] == "ready"  # so its SHA-256 is the declared one, and it was decoded
    sent = [each.sent_bytes for each in reported if each.stage == "uploading"]
    assert sent == sorted(sent)
    assert push_folder(client, tmp_path, "again")["status"] == "ready"


def test_a_run_is_validated_before_it_is_submitted(reverie: CommandLine) -> None:
    demo = f"--config={EXAMPLES / 'demo'}"
    right = json.loads(
        reverie("runs", "validate", demo, "--set=max_train_steps=9", "--json").stdout
    )
    assert (right["is_valid"], right["max_steps"], right["data"]) == (True, 9, None)

    shown = reverie("runs", "validate", demo)
    assert "GPU CLASS" in shown.stdout
    assert "not known: /data: The datasets are left out." in shown.stderr

    wrong = reverie("runs", "validate", demo, "--set=optimizer=none", status=1)
    assert "error: /config/optimizer: " in wrong.stderr
    folder = f"--dataset=photos={EXAMPLES / 'photos' / 'train'}"
    assert "not a folder" in reverie("runs", "validate", demo, folder, status=2).stderr


def test_a_run_is_cloned_with_changes_and_compared(
    reverie: CommandLine, run_id: str, tmp_path: Path
) -> None:
    changes = tmp_path / "changes.json"
    changes.write_text('{"priority": "low", "config": {"seed": 9}}')
    made = json.loads(
        reverie(
            "runs", "clone", run_id, "--set=learning_rate=1e-4", f"--changes={changes}", "--json"
        ).stdout
    )
    assert (made["parent_run_id"], made["priority"]) == (run_id, "low")
    assert {each["option"] for each in made["diff"]["request"]} == {
        "/config/learning_rate",
        "/config/seed",
        "/priority",
    }
    shown = reverie("runs", "diff", run_id, made["id"]).stdout
    assert "/identity/optimizer/learning_rate" in shown
    assert "nothing differs" in reverie("runs", "diff", run_id, run_id).stderr
    reverie("runs", "cancel", made["id"])


def test_a_local_adapter_is_pushed_for_the_run_that_starts_from_it(
    reverie: CommandLine, client: Client, run_id: str, models_dir: Path, tmp_path: Path
) -> None:
    width = width_of(read_base_model(models_dir / "hidream-tiny"))
    file = tmp_path / "old" / "pytorch_lora_weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(lora_bytes(4, out_features=width))
    datasets = client.get_run(run_id)["datasets"]
    command = [
        f"--config={EXAMPLES / 'demo'}",
        *(f"--dataset={backend}={dataset}" for backend, dataset in datasets.items()),
        *("--set=lora_type=standard", "--set=lora_rank=4", "--set=lycoris_config="),
        '--set=peft_lora_target_modules=["x_embedder.proj"]',
    ]

    validated = reverie("runs", "validate", *command, f"--set=init_lora={file.parent}")
    submitted = reverie("runs", "submit", *command, f"--set=init_lora={file.parent}", "--json")

    assert f"init_lora: {file} is not pushed for this; left out." in validated.stderr
    (named,) = re.findall(rf"init_lora +{file} pushed as (ds_\w+)", submitted.stderr)
    plan = client.get_plan(json.loads(submitted.stdout)["id"])
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert plan["identity"]["start_adapter"] == {"sha256": sha256}
    assert client.get_dataset(named)["status"] == "ready"

    # The page's other way: the file alone, which is stored already.
    pushed = json.loads(reverie("datasets", "push", str(file), "--json").stdout)["id"]
    again = reverie("runs", "submit", *command, f"--set=init_lora={pushed}", "--json")
    plan = client.get_plan(json.loads(again.stdout)["id"])
    assert plan["identity"]["start_adapter"] == {"sha256": sha256}

    file.write_bytes(lora_bytes(8, out_features=width))
    refused = reverie("runs", "submit", *command, f"--set=init_lora={file}", status=1)
    assert "its rank is 8 and lora_rank is 4: set lora_rank to it. [conflict]" in refused.stderr
    missing = reverie("runs", "submit", *command, "--set=init_lora=none.safetensors", status=1)
    assert missing.stderr.splitlines()[-1].startswith(
        "error: none.safetensors is in none of these places: "
    )
    earlier = reverie("runs", "submit", *command, f"--set=init_lora={run_id}", status=1)
    assert f"init_lora: {run_id} is " in earlier.stderr
    assert "and has no result; a checkpoint of it is named by" in earlier.stderr
