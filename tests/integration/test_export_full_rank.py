"""Full rank: a checkpoint is exported as all weights, and they are a base model to paint with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.cli.connection import CommandError
from tests.support import damage
from tests.support.exporting import FULL, LAST, Trainer, export, files_in, painted
from tests.support.own_disk import mounted_disk
from tests.support.parted_checkpoints import write_parted
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.layout import state_names
from trainer_core.checkpoint.state_files import Place
from trainer_core.disk import DiskError
from trainer_core.errors import (
    AdapterFileError,
    BaseModelError,
    CheckpointCorruptError,
    OutputError,
)
from trainer_core.export.start_file import find_start


@pytest.fixture(scope="module")
def full(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a full-rank run."""
    shards = tmp_path_factory.mktemp("shards")
    trainer = Trainer(tiny_folder, shards, tmp_path_factory.mktemp("exported"))
    return trainer.train("full", **FULL)


def test_full_rank_is_a_folder_with_the_transformer(full: Path, tmp_path: Path) -> None:
    assert files_in(full / "checkpoints" / LAST).keys() == {"manifest.json", "state.safetensors"}

    export(full, "--output", tmp_path / "full")

    assert files_in(tmp_path / "full" / "transformer") == files_in(full / "result" / "transformer")
    with pytest.raises(OutputError, match=r"a\.safetensors is the name of a file: all weights"):
        export(full, "--output", tmp_path / "a.safetensors")
    damaged = tmp_path / "damaged"
    shutil.copytree(full / "checkpoints" / LAST, damaged / LAST)
    damage.OF_A_FILE["flipped"](damaged / LAST / "state.safetensors")
    for place in (damaged, damaged / LAST):  # refused before the state is read
        with pytest.raises(OutputError, match=r"a\.safetensors is the name of a file: all weights"):
            export(place, "--output", tmp_path / "a.safetensors")


def test_a_checkpoint_far_from_its_run_needs_only_its_base(
    full: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was downloaded: no job is beside it."""
    monkeypatch.setenv("REVERIE_MODELS_DIR", str(tmp_path))
    shutil.copytree(full / "checkpoints" / LAST, tmp_path / "far")

    export(tmp_path / "far", "--base", tiny_folder, "--output", tmp_path / "b")

    assert files_in(tmp_path / "b" / "transformer") == files_in(full / "result" / "transformer")


def test_a_checkpoint_of_several_ranks_gives_the_same_weights(
    full: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Of which each has written its own part of each tensor."""
    parted = cut_in_two(full / "checkpoints" / LAST, tmp_path)

    export(parted, "--base", tiny_folder, "--output", tmp_path / "made")

    assert files_in(tmp_path / "made" / "transformer") == files_in(full / "result" / "transformer")
    for place in (parted, *(parted / name for name in state_names(2))):
        with pytest.raises(AdapterFileError, match="of full-rank training: it has no adapter"):
            find_start(place)
    damage.OF_A_FILE["flipped"](parted / state_names(2)[1])
    with pytest.raises(
        CheckpointCorruptError, match=r"state-00001-of-00002\.safetensors is damaged"
    ):
        export(parted, "--base", tiny_folder, "--output", tmp_path / "other")


def cut_in_two(checkpoint: Path, folder: Path) -> Path:
    """The same checkpoint, as two ranks would have written it."""
    manifest = read_manifest(checkpoint)
    run = CheckpointIdentity(
        identity_digest=manifest.identity_digest,
        identity=manifest.identity or {},
        data_digest=manifest.data_digest,
        base_digest=manifest.base_digest,
        matmul="auto",
    )
    tensors: list[dict[str, torch.Tensor]] = [{}, {}]
    parts: list[dict[str, Place]] = [{}, {}]
    for name, value in load_file(checkpoint / "state.safetensors").items():
        flat, middle = value.view(-1), value.numel() // 2
        for rank, (start, end) in enumerate(((0, middle), (middle, value.numel()))):
            tensors[rank][name] = flat[start:end]
            parts[rank][name] = Place(start=start, shape=tuple(value.shape))
    return write_parted(folder, run, tensors, parts, manifest.step)


def test_another_base_model_is_refused(full: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"is hidream-wide, and .* from hidream-tiny: "):
        export(full, "--base", "hidream-wide", "--output", tmp_path / "out")
    config = json.loads((tiny_folder / "transformer" / "config.json").read_text())
    for name, change in (("other", {"num_layers": config["num_layers"] + 1}), ("\udcff", {})):
        (tmp_path / name / "transformer").mkdir(parents=True)
        (tmp_path / name / "transformer" / "config.json").write_text(json.dumps(config | change))

    with pytest.raises(BaseModelError, match="other does not fit the checkpoint: double_stream"):
        export(full, "--base", tmp_path / "other", "--output", tmp_path / "out")
    with pytest.raises(BaseModelError, match=r"the name of '\\udcff' is not UTF-8: rename"):
        export(full, "--base", tmp_path / "\udcff", "--output", tmp_path / "out")


def test_a_full_disk_is_named_and_nothing_stays(full: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted_disk(disk, "size=4k"):
        with pytest.raises(DiskError, match=rf"no space left for {disk / 'full'}"):
            export(full, "--output", disk / "full")
        assert list(disk.iterdir()) == []


def test_a_full_rank_result_paints_with_the_parts_of_its_base(
    full: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tiny_folder, whole)
    shutil.rmtree(whole / "transformer")
    shutil.copytree(full / "result" / "transformer", whole / "transformer")

    def picture(*base: object) -> bytes:
        return painted(tmp_path / "a.png", "--base", *base)

    expected = picture(whole)

    assert picture(tiny_folder) != expected
    assert picture(full) == expected
    # An export in another place: its metadata names the base, which the operator's folder has.
    export(full / "checkpoints" / LAST, "--output", tmp_path / "far" / "full")
    monkeypatch.setenv("REVERIE_MODELS_DIR", str(tiny_folder.parent))
    assert picture(tmp_path / "far" / "full") == expected
    # One whose base nothing names.
    shutil.copytree(full / "result" / "transformer", tmp_path / "lone" / "transformer")
    for file in (tmp_path / "lone" / "transformer").glob("*.safetensors"):
        save_file(load_file(file), file)
    with pytest.raises(BaseModelError, match=r"not on this machine: name .* with --parts-from"):
        picture(tmp_path / "lone")
    assert picture(tmp_path / "lone", "--parts-from", tiny_folder) == expected
    with pytest.raises(CommandError, match="--parts-from is for a --base with a transformer alone"):
        picture(tiny_folder, "--parts-from", tiny_folder)
    with pytest.raises(AdapterFileError, match=r"result has a transformer .*: give it to --base"):
        picture(tiny_folder, "--adapter", full / "result")
    with pytest.raises(AdapterFileError, match="of full-rank training: write its transformer"):
        picture(tiny_folder, "--adapter", full / "checkpoints" / LAST)


def test_weights_in_bf16_are_exported_as_the_result_has_them(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    shards = tmp_path_factory.mktemp("shards")
    trainer = Trainer(tiny_folder, shards, tmp_path_factory.mktemp("exported"))
    options = {"optimizer": "adamw_bf16", "mixed_precision": "bf16", "use_ema": False}
    trained = trainer.train("bf16", **FULL | options)
    state = load_file(trained / "checkpoints" / LAST / "state.safetensors")

    export(trained, "--output", tmp_path / "full")

    assert files_in(tmp_path / "full" / "transformer") == files_in(
        trained / "result" / "transformer"
    )
    weights = load_file(next((tmp_path / "full" / "transformer").glob("*.safetensors")))
    for name, value in weights.items():
        assert state[f"param/{name}"].dtype is torch.bfloat16
        assert torch.equal(value, state[f"param/{name}"])
