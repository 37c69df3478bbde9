"""Checkpoint folders: complete or absent, and only for the run that wrote them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import JsonValue

from trainer_core.checkpoint.folders import committed_checkpoints, keep_newest, restore_replaced
from trainer_core.checkpoint.identity import CheckpointIdentity, check_checkpoint
from trainer_core.checkpoint.matmul import matmul_of
from trainer_core.checkpoint.read import read_checkpoint
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    WrittenFolder,
    write_checkpoint,
    write_result,
)
from trainer_core.config.plan import Matmul
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import CheckpointError, InjectedFaultError

IDENTITY: dict[str, JsonValue] = {
    "seed": 42,
    "accumulation_steps": 1,
    "world_size": 1,
    "optimizer": {"name": "adamw", "betas": [0.9, 0.999]},
    "adapter": {"modules": [{"path": f"m.{i}", "factor": 16} for i in range(20)]},
}
RUN = CheckpointIdentity(
    identity_digest=digest_of(IDENTITY),
    identity=IDENTITY,
    data_digest="2" * 64,
    base_digest="3" * 64,
    matmul="auto",
)
PARAMETERS = {"a.w1": torch.arange(6.0).reshape(2, 3), "a.scalar": torch.tensor([0.5])}
STATE = {
    "optim/a.w1/exp_avg": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
    "optim/a.w1/state1": torch.arange(6, dtype=torch.uint8),
    "optim/a.w1/step": torch.tensor(4.0),
    "optim_number/a.w1/step": torch.tensor(4),
    "optim_group/d": torch.tensor(0.1, dtype=torch.float64),
}
MEANS = {name: value / 3 for name, value in PARAMETERS.items()}
TRAINED = TrainedTensors(parameters=PARAMETERS, optimizer_state=STATE, ema=MEANS)


def write(folder: Path, step: int = 4, run: CheckpointIdentity = RUN) -> WrittenFolder:
    facts = CheckpointFacts(
        step=step,
        cursor=2 * step,
        run=run,
        scalars={"loss": 0.25, "threads": 1},
    )
    return write_checkpoint(folder, facts, TRAINED)


def test_a_written_checkpoint_is_read_back_unchanged(tmp_path: Path) -> None:
    written = write(tmp_path)

    checkpoint = read_checkpoint(written.path, RUN)

    assert written.path.name == "step-00000004"
    assert checkpoint.manifest.step == 4
    assert checkpoint.manifest.cursor == 8
    assert checkpoint.manifest.scalars == {"loss": 0.25, "threads": 1}
    pairs = (
        (PARAMETERS, checkpoint.parameters),
        (STATE, checkpoint.optimizer_state),
        (MEANS, checkpoint.ema),
    )
    for saved, read in pairs:
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
        ("data_digest", "the data"),
        ("base_digest", "the base model"),
    ],
)
def test_a_checkpoint_of_other_data_or_another_base_model_is_refused(
    tmp_path: Path, field: str, words: str
) -> None:
    written = write(tmp_path)

    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(written.path, replace(RUN, **{field: "f" * 64}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 7}, r"here: seed: 7 here, 42 in the checkpoint$"),
        (
            {"optimizer": {"name": "prodigy", "betas": [0.9, 0.99]}},
            r"optimizer_config \(betas\): 0\.99 here, 0\.999 in the checkpoint$",
        ),
        ({"clip": None}, r"max_grad_norm: none here, absent in the checkpoint$"),
        ({"adapter": {"modules": []}}, r"module m\.0: only in the checkpoint"),
        ({"seed": 42.0}, r"seed: 42\.0 here, 42 in the checkpoint"),
    ],
)
def test_another_plan_is_refused_by_the_fields_that_differ(
    tmp_path: Path, change: dict[str, JsonValue], words: str
) -> None:
    written = write(tmp_path)
    identity = {**IDENTITY, **change}
    other = replace(RUN, identity=identity, identity_digest=digest_of(identity))

    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(written.path, other)


def test_other_ranks_with_as_many_micro_batches_a_step_are_the_same_plan(tmp_path: Path) -> None:
    """Older checkpoints have the ranks beside the accumulation."""
    identity = {**IDENTITY, "accumulation_steps": 2, "world_size": 3}
    run = replace(RUN, identity=identity, identity_digest=digest_of(identity))
    folder = write(tmp_path, 2, run).path
    whole = {**IDENTITY, "accumulation_steps": 6, "world_size": 1}

    run = replace(RUN, identity=whole, identity_digest=digest_of(whole))
    assert read_checkpoint(folder, run).manifest.step == 2
    fewer = {**whole, "accumulation_steps": 4}
    with pytest.raises(CheckpointError, match=r"times num_processes: 4 here, 6 in the checkpoint"):
        read_checkpoint(folder, replace(RUN, identity=fewer, identity_digest=digest_of(fewer)))


def test_a_refusal_names_eight_of_many_fields(tmp_path: Path) -> None:
    written = write(tmp_path)
    modules: JsonValue = [{"path": f"m.{i}", "factor": 8} for i in range(20)]
    identity = {**IDENTITY, "adapter": {"modules": modules}}
    other = replace(
        RUN, identity=identity, identity_digest=digest_of(identity), data_digest="f" * 64
    )

    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(written.path, other)

    first = "here: module m.0, apply_preset (factor): 8 here, 16 in the checkpoint; module m.1"
    assert first in caught.value.message
    assert caught.value.message.endswith("; and 12 more fields")


@pytest.mark.parametrize("kind", ["fp8", "int8", "no_change"])
def test_the_products_of_the_checkpoint_are_kept_or_refused(tmp_path: Path, kind: str) -> None:
    written = write_checkpoint(
        tmp_path, CheckpointFacts(step=4, cursor=8, run=RUN, scalars={"matmul": kind}), TRAINED
    )

    for asked in get_args(Matmul):
        here = replace(RUN, matmul=asked)
        if asked in ("auto", kind):
            assert matmul_of(read_checkpoint(written.path, here).manifest) == kind
        else:
            words = f"base_model_matmul_precision: {asked} here, {kind} in the checkpoint"
            with pytest.raises(CheckpointError, match=words):
                read_checkpoint(written.path, here)


def test_a_checkpoint_without_a_record_was_made_without_8_bit_products(tmp_path: Path) -> None:
    written = write(tmp_path)

    for asked in ("auto", "no_change"):
        here = replace(RUN, matmul=asked)
        assert matmul_of(read_checkpoint(written.path, here).manifest) == "no_change"
    with pytest.raises(CheckpointError, match="precision: fp8 here, no_change in the"):
        read_checkpoint(written.path, replace(RUN, matmul="fp8"))


@pytest.mark.parametrize("kind", ["fp4", None, ["fp8"]])
def test_unknown_products_are_refused(tmp_path: Path, kind: JsonValue) -> None:
    written = write_checkpoint(
        tmp_path, CheckpointFacts(step=4, cursor=8, run=RUN, scalars={"matmul": kind}), TRAINED
    )

    with pytest.raises(CheckpointError, match="unknown here"):
        read_checkpoint(written.path, replace(RUN, matmul="no_change"))


def test_a_checkpoint_without_an_identity_is_checked_by_its_digest(tmp_path: Path) -> None:
    folder = write(tmp_path).path
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["identity"], manifest["scalars"]["manifest_digest"]
    (folder / "manifest.json").write_text(json.dumps(manifest))

    assert read_checkpoint(folder, RUN).manifest.step == 4
    with pytest.raises(CheckpointError, match="the plan: ffff"):
        read_checkpoint(folder, replace(RUN, identity_digest="f" * 64))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "no manifest", "half a manifest"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
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
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:-30])

    with pytest.raises(CheckpointError, match="step-00000004"):
        read_checkpoint(folder, RUN)


@pytest.mark.parametrize(
    "place", ["checkpoint.before_state", "checkpoint.before_manifest", "checkpoint.before_rename"]
)
def test_a_failure_before_the_rename_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{place}=raise")

    with pytest.raises(InjectedFaultError):
        write(tmp_path)
    assert not (tmp_path / "step-00000004").exists()

    monkeypatch.delenv("FAULT_AT")
    assert read_checkpoint(write(tmp_path).path, RUN).manifest.step == 4


def test_writing_the_same_step_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    first = write(tmp_path)

    assert write(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_failure_while_a_checkpoint_is_replaced_leaves_a_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", "checkpoint.before_rename=raise")

    with pytest.raises(InjectedFaultError):
        write(tmp_path)

    assert [path.name for path in committed_checkpoints(tmp_path)] == ["step-00000004"]


def test_the_old_checkpoint_is_restored_after_a_failure_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", "checkpoint.between_renames=raise")
    with pytest.raises(InjectedFaultError):
        write(tmp_path, 4)

    keep_newest(tmp_path, 1)

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    assert check_checkpoint(tmp_path / "step-00000004", RUN).step == 4


def test_the_old_result_is_restored_after_a_failure_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "result"
    write_result(final, 8, lambda folder: None)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", "result.between_renames=raise")
    with pytest.raises(InjectedFaultError):
        write_result(final, 8, lambda folder: None)
    assert not final.exists()

    restore_replaced(final)

    assert (final / "manifest.json").is_file()
    restore_replaced(final)  # nothing is left to do


def test_a_failure_while_a_checkpoint_is_deleted_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        write(tmp_path, step)

    def die(path: Path) -> None:
        (path / "manifest.json").unlink()
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(InterruptedError):
            keep_newest(tmp_path, 1)

    assert not (tmp_path / "step-00000005").exists()
    keep_newest(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_checkpoint_after_the_last_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="at step 4, the plan ends at 3"):
        check_checkpoint(write(tmp_path).path, RUN, last_step=3)


def test_retention_keeps_the_newest_and_deletes_drafts(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        write(tmp_path, step)
    (tmp_path / ".step-00000105.draft").mkdir()
    (tmp_path / ".step-00000100.old").mkdir()

    keep_newest(tmp_path, 2)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("kind", ["no manifest", "cut", "another step's", "a link", "a file"])
def test_anything_but_a_complete_checkpoint_is_neither_counted_nor_deleted(
    tmp_path: Path, kind: str
) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (5, 10):
        write(checkpoints, step)
    other = checkpoints / "step-00000099"
    match kind:
        case "no manifest":
            other.mkdir()
        case "cut":
            write(checkpoints, 99)
            state = other / "state.safetensors"
            state.write_bytes(state.read_bytes()[:-1])
        case "another step's":
            shutil.copytree(checkpoints / "step-00000010", other)
        case "a link":
            other.symlink_to(write(tmp_path / "elsewhere", 99).path)
        case "a file":
            other.write_text("mine")

    keep_newest(checkpoints, 1)

    assert [path.name for path in committed_checkpoints(checkpoints)] == ["step-00000010"]
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000010", "step-00000099"]


def test_without_a_folder_there_are_no_checkpoints(tmp_path: Path) -> None:
    assert committed_checkpoints(tmp_path / "nowhere") == []


def test_a_result_lists_files_in_folders(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "samples").mkdir()
        (folder / "samples" / "0.png").write_bytes(b"png")

    written = write_result(tmp_path / "result", 8, fill)

    manifest = json.loads((written.path / "manifest.json").read_text())
    assert manifest["kind"] == "result"
    assert manifest["step"] == 8
    assert list(manifest["files"]) == ["samples/0.png"]
