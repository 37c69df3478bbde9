"""Checkpoint folders: whole or not there, and only for the run they belong to."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer_core.checkpoint.read import Belongs, read_checkpoint
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    WrittenFolder,
    keep_newest,
    write_checkpoint,
    write_result,
)
from trainer_core.errors import CheckpointError, InjectedFaultError

RUN = Belongs(identity_digest="1" * 64, data_digest="2" * 64, base_digest="3" * 64)
PARAMETERS = {"a.w1": torch.arange(6.0).reshape(2, 3), "a.scalar": torch.tensor([0.5])}
STATE = {
    "a.w1/exp_avg": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
    "a.w1/step": torch.tensor(4.0),
}


def write(folder: Path, step: int = 4) -> WrittenFolder:
    facts = CheckpointFacts(
        step=step,
        cursor=2 * step,
        identity_digest=RUN.identity_digest,
        data_digest=RUN.data_digest,
        base_digest=RUN.base_digest,
        scalars={"loss": 0.25, "threads": 1},
    )
    return write_checkpoint(folder, facts, PARAMETERS, STATE)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    written = write(tmp_path)

    checkpoint = read_checkpoint(written.path, RUN)

    assert written.path.name == "step-00000004"
    assert checkpoint.manifest.step == 4
    assert checkpoint.manifest.cursor == 8
    assert checkpoint.manifest.scalars == {"loss": 0.25, "threads": 1}
    for saved, read in ((PARAMETERS, checkpoint.parameters), (STATE, checkpoint.optimizer_state)):
        assert saved.keys() == read.keys()
        assert all(
            torch.equal(saved[k], read[k]) and saved[k].dtype is read[k].dtype for k in saved
        )


def test_the_manifest_names_every_file_with_size_and_digest(tmp_path: Path) -> None:
    written = write(tmp_path)

    body = (written.path / "manifest.json").read_bytes()
    files = json.loads(body)["files"]

    assert hashlib.sha256(body).hexdigest() == written.manifest_sha256
    assert {*files, "manifest.json"} == {p.name for p in written.path.iterdir()}
    assert written.size_bytes == sum(p.stat().st_size for p in written.path.iterdir())
    for name, facts in files.items():
        content = (written.path / name).read_bytes()
        assert facts == {
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("identity_digest", "the plan's identity"),
        ("data_digest", "the data"),
        ("base_digest", "the base model"),
    ],
)
def test_another_runs_checkpoint_is_refused_by_name(tmp_path: Path, field: str, words: str) -> None:
    written = write(tmp_path)

    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(written.path, replace(RUN, **{field: "f" * 64}))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "no manifest", "torn manifest"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path).path
    state, manifest = folder / "state.safetensors", folder / "manifest.json"
    body = bytearray(state.read_bytes())
    match damage:
        case "flip":
            body[-1] ^= 1
            state.write_bytes(body)
        case "cut":
            state.write_bytes(body[:-1])
        case "remove":
            state.unlink()
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:-30])

    with pytest.raises(CheckpointError, match="step-00000004"):
        read_checkpoint(folder, RUN)


@pytest.mark.parametrize(
    "place", ["checkpoint.before_state", "checkpoint.before_manifest", "checkpoint.before_rename"]
)
def test_a_death_before_the_rename_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{place}=raise")

    with pytest.raises(InjectedFaultError):
        write(tmp_path)
    assert not (tmp_path / "step-00000004").exists()

    monkeypatch.delenv("FAULT_AT")
    assert read_checkpoint(write(tmp_path).path, RUN).manifest.step == 4


def test_the_same_step_again_takes_the_place(tmp_path: Path) -> None:
    first = write(tmp_path)

    assert write(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_retention_keeps_the_newest_and_sweeps_drafts(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        write(tmp_path, step)
    (tmp_path / ".step-00000105.draft").mkdir()

    keep_newest(tmp_path, 2)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_result_lists_files_in_folders(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "samples").mkdir()
        (folder / "samples" / "0.png").write_bytes(b"png")

    written = write_result(tmp_path / "result", 8, fill)

    manifest = json.loads((written.path / "manifest.json").read_text())
    assert manifest["kind"] == "result"
    assert manifest["step"] == 8
    assert list(manifest["files"]) == ["samples/0.png"]
