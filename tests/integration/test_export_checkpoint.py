"""A checkpoint is exported as the result that its run would have written, byte for byte."""

import itertools
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import damage
from tests.support.exporting import (
    ADAPTER,
    EMA,
    LAST,
    LORA,
    SMALL,
    Trainer,
    export,
    files_in,
    painted,
    reverie,
)
from tests.support.own_disk import mounted_disk
from tests.support.small_jobs import STEPS
from trainer_core.checkpoint.folders import facts_of, keep_newest, read_manifest
from trainer_core.checkpoint.layout import adapter_files, checkpoint_name, opened, sealed
from trainer_core.disk import DiskError
from trainer_core.errors import (
    AdapterFileError,
    BaseModelError,
    CheckpointCorruptError,
    CheckpointError,
    OutputError,
)
from trainer_core.export.start_file import find_start
from trainer_core.local.export import adapter_at
from trainer_core.local.folder import locked
from trainer_core.progress import SilentReporter


@pytest.fixture(scope="module")
def trainer(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    shards = tmp_path_factory.mktemp("shards")
    return Trainer(tiny_folder, shards, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def averaged(trainer: Trainer) -> Path:
    """A run with a running mean."""
    return trainer.train("averaged", **EMA)


@pytest.fixture(scope="module")
def plain(trainer: Trainer) -> Path:
    """The same without one, resumed from its checkpoint of step 2."""
    first = trainer.train("first", max_train_steps=2)
    return trainer.train("plain", first / "checkpoints" / "step-00000002")


def test_the_newest_checkpoint_gives_the_file_of_the_result(
    averaged: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options: the running mean of one run, the live weights of the resumed one."""
    monkeypatch.chdir(tmp_path)
    for output, name in ((averaged, f"{LAST}-ema"), (plain, f"{LAST}-live")):
        written = export(output)

        assert written == Path(f"{name}.safetensors")
        assert written.read_bytes() == (output / "result" / ADAPTER).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{LAST}-ema.safetensors",
        f"{LAST}-live.safetensors",
    ]


def test_a_checkpoint_has_its_adapter_files_beside_the_state(
    trainer: Trainer, averaged: Path, plain: Path, tmp_path: Path
) -> None:
    """Those of a result; beside a running mean the live weights, too.

    A run goes on without them, so their user may take them away.
    """
    config = "lycoris_config.json"
    for output, live in ((averaged, {f"live/{ADAPTER}", f"live/{config}"}), (plain, set())):
        files = files_in(output / "checkpoints" / LAST)
        assert files.keys() == {"manifest.json", "state.safetensors", ADAPTER, config} | live
        for name in (ADAPTER, config):
            assert files[name] == (output / "result" / name).read_bytes()
    last = files_in(averaged / "checkpoints" / LAST)
    assert last[f"live/{ADAPTER}"] == (plain / "result" / ADAPTER).read_bytes()
    assert last[f"live/{config}"] == last[config]
    folder = averaged / "checkpoints" / LAST
    manifest = read_manifest(folder)
    assert manifest.files.keys() == {"state.safetensors"}
    assert adapter_files(manifest) == {
        name: facts_of(folder / name)
        for name in last.keys() - {"manifest.json", "state.safetensors"}
    }

    bare = tmp_path / "step-00000002"
    shutil.copytree(plain.parents[1] / "first" / "output" / "checkpoints" / bare.name, bare)
    (bare / ADAPTER).rename(tmp_path / "taken.safetensors")
    resumed = trainer.train("without-adapter-file", bare)
    assert files_in(resumed / "result")[ADAPTER] == files_in(plain / "result")[ADAPTER]


def test_a_damaged_adapter_file_of_a_checkpoint_starts_no_run(
    averaged: Path, tmp_path: Path
) -> None:
    place = tmp_path / LAST
    shutil.copytree(averaged / "checkpoints" / LAST, place)
    assert find_start(place / ADAPTER).path == place / ADAPTER
    body = bytearray((place / ADAPTER).read_bytes())
    body[-1] ^= 1
    (place / ADAPTER).write_bytes(body)

    with pytest.raises(AdapterFileError, match=f"{ADAPTER} is damaged: it differs from the mani"):
        find_start(place / ADAPTER)
    assert find_start(place).path == place / "state.safetensors"

    assert find_start(place / "live").path == place / "live" / ADAPTER
    shutil.copyfile(place / ADAPTER, place / "live" / ADAPTER)
    with pytest.raises(AdapterFileError, match=f"live/{ADAPTER} is damaged"):
        find_start(place / "live")

    manifest = read_manifest(place)
    newer = {**manifest.scalars, "adapter_files": {ADAPTER: {"newer": 1}}}
    newer.pop("manifest_digest", None)
    body = sealed(manifest.model_copy(update={"scalars": newer})).model_dump_json()
    (place / "manifest.json").write_text(body)
    assert find_start(place).path == place / "state.safetensors"
    with pytest.raises(AdapterFileError, match="of a newer version; name the checkpoint itself"):
        find_start(place / ADAPTER)


def test_an_adapter_alone_is_used_as_it_is(averaged: Path, tmp_path: Path) -> None:
    """Its folder may have the name of a checkpoint."""
    place = tmp_path / LAST
    place.mkdir()
    file = shutil.copyfile(averaged / "checkpoints" / LAST / ADAPTER, place / ADAPTER)

    with adapter_at(place, None, SilentReporter()) as found:
        assert found == file
    for each in (file, averaged / "checkpoints" / LAST / "live"):
        with pytest.raises(CheckpointError, match="is no checkpoint: an adapter file is used as"):
            export(each)


def test_a_folder_has_lycoris_config_beside_the_file(averaged: Path, tmp_path: Path) -> None:
    export(averaged / "checkpoints" / LAST, "--output", tmp_path / "new" / "try")

    result = files_in(averaged / "result")
    names = (ADAPTER, "lycoris_config.json")
    assert files_in(tmp_path / "new" / "try") == {name: result[name] for name in names}


def test_both_kinds_of_weights_can_be_chosen(averaged: Path, plain: Path, tmp_path: Path) -> None:
    """The running mean changes no step, so the live weights are those of a run without one."""
    live = export(averaged, "--weights", "live", "--output", tmp_path / "live.safetensors")

    assert live.read_bytes() == (plain / "result" / ADAPTER).read_bytes()
    assert live.read_bytes() != (averaged / "result" / ADAPTER).read_bytes()
    with pytest.raises(CheckpointError, match=f"{LAST} has no running mean .*--weights live"):
        export(plain, "--weights", "ema", "--output", tmp_path / "none.safetensors")


def test_a_step_can_be_chosen(plain: Path, averaged: Path, tmp_path: Path) -> None:
    first = plain.parents[1] / "first" / "output"
    file = export(averaged, "--step", 2, "--output", tmp_path / "2.safetensors")
    assert file.read_bytes() != (averaged / "result" / ADAPTER).read_bytes()

    of_first = export(first, "--step", 2, "--output", tmp_path / "first.safetensors")

    assert of_first.read_bytes() == (first / "result" / ADAPTER).read_bytes()
    with pytest.raises(CheckpointError, match=r"step-00000009; there are those of the steps 2, 3"):
        export(averaged, "--step", 9)
    with pytest.raises(CheckpointError, match="is one checkpoint: for a step, name the output"):
        export(averaged / "checkpoints" / LAST, "--step", 2)
    with pytest.raises(CheckpointError, match="result is the result of a run: use it as it is"):
        export(averaged / "result")


def test_a_checkpoint_is_meant_by_its_state_file_too(averaged: Path, tmp_path: Path) -> None:
    state = averaged / "checkpoints" / LAST / "state.safetensors"

    written = export(state, "--output", tmp_path / "a.SAFETENSORS")

    assert written.read_bytes() == (averaged / "result" / ADAPTER).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.SAFETENSORS"]


def test_home_may_be_written_as_a_tilde(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    export(averaged, "--output", "~/a.safetensors")

    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "a.safetensors").is_file()


def test_a_state_of_another_run_is_told_in_plain_words(averaged: Path, tmp_path: Path) -> None:
    """As its manifest says, the files are whole."""
    place = tmp_path / LAST
    shutil.copytree(averaged / "checkpoints" / LAST, place)
    state, manifest_file = place / "state.safetensors", place / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    manifest["identity"]["adapter"]["modules"][0]["path"] = "evil.x"
    del manifest["scalars"]["manifest_digest"]
    manifest_file.write_text(json.dumps(manifest))
    said = f"{LAST}/state.safetensors is not the state of its run: "
    with pytest.raises(CheckpointError, match=rf"^{said}it lacks evil\.x\.w1$"):
        export(place, "--output", tmp_path / "a.safetensors")

    state.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000)
    manifest["files"][state.name] = facts_of(state).model_dump()
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"{said}.* is damaged: its header is nested too"):
        export(place, "--output", tmp_path / "a.safetensors")


def test_lora_too(trainer: Trainer, tmp_path: Path) -> None:
    output = trainer.train("lora", **LORA)

    export(output, "--output", tmp_path / "folder")

    assert files_in(tmp_path / "folder") == {ADAPTER: (output / "result" / ADAPTER).read_bytes()}


def test_a_checkpoint_far_from_its_run_needs_no_base(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was downloaded: no job is beside it."""
    monkeypatch.setenv("REVERIE_MODELS_DIR", str(tmp_path))
    far = tmp_path / "far"
    shutil.copytree(averaged / "checkpoints" / LAST, far)

    file = export(far, "--output", tmp_path / "a.safetensors")

    assert file.read_bytes() == (averaged / "result" / ADAPTER).read_bytes()


def test_an_older_checkpoint_does_not_name_its_base_model(averaged: Path, tmp_path: Path) -> None:
    """Its job does, or the command."""
    output = tmp_path / "output"
    shutil.copytree(averaged / "checkpoints", output / "checkpoints")
    manifest_file = output / "checkpoints" / LAST / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    del manifest["scalars"]["base_model"], manifest["scalars"]["manifest_digest"]
    manifest_file.write_text(json.dumps(manifest))

    with pytest.raises(BaseModelError, match=f"{LAST} does not say which base model .*--base"):
        export(output, "--output", tmp_path / "a.safetensors")
    named = export(output, "--base", "hidream-tiny", "--output", tmp_path / "a.safetensors")
    shutil.copy(averaged / "job.json", output)
    by_job = export(output, "--output", tmp_path / "b.safetensors")

    expected = (averaged / "result" / ADAPTER).read_bytes()
    assert named.read_bytes() == by_job.read_bytes() == expected


def test_another_base_model_is_refused(averaged: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"is hidream-wide, and .* from hidream-tiny: "):
        export(averaged, "--base", "hidream-wide", "--output", tmp_path / "out")


def test_what_is_there_stays(averaged: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.safetensors exists: .*--overwrite"):
        export(averaged, "--output", file)
    assert file.read_text() == "mine"
    with pytest.raises(OutputError, match="exists and is not empty"):
        export(averaged, "--output", tmp_path, "--overwrite")

    export(averaged, "--output", file, "--overwrite")

    assert file.read_bytes() == (averaged / "result" / ADAPTER).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize("kind", damage.OF_A_FILE)
@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_offered(
    kind: str, name: str, averaged: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    shutil.copytree(averaged / "checkpoints", output / "checkpoints")
    damage.OF_A_FILE[kind](output / "checkpoints" / LAST / name)

    with pytest.raises(CheckpointCorruptError, match=rf"{LAST}/{name}.*--step 2$"):
        export(output, "--step", STEPS)
    with pytest.raises(CheckpointCorruptError, match=rf"{LAST}/{name}.*step-00000002$"):
        export(output / "checkpoints" / LAST)
    result = reverie("export", output, "--output", tmp_path / "newest.safetensors")

    assert result.exit_code == 0
    assert f"{LAST}/{name}" in result.stderr
    assert "Step 2 is taken instead." in result.stderr
    expected = export(averaged, "--step", 2, "--output", tmp_path / "2.safetensors")
    assert (tmp_path / "newest.safetensors").read_bytes() == expected.read_bytes()

    damage.remove(output / "checkpoints" / "step-00000002" / name)
    with pytest.raises(CheckpointCorruptError, match=rf"none of .* is whole: {LAST}/{name}"):
        export(output)
    with pytest.raises(CheckpointCorruptError, match="There is no older one that is whole"):
        export(output, "--step", STEPS)


def test_a_full_disk_is_named_and_nothing_stays(averaged: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted_disk(disk, "size=4k"):
        for name in ("a.safetensors", "a"):
            with pytest.raises(DiskError, match=rf"no space left for {disk / name}"):
                export(averaged, "--output", disk / name)
            assert list(disk.iterdir()) == []


def test_a_run_that_goes_on_is_read_and_not_disturbed(averaged: Path, tmp_path: Path) -> None:
    """It writes and deletes checkpoints while they are exported, and holds its lock."""
    folder = tmp_path / "output" / "checkpoints"
    whole = averaged / "checkpoints" / LAST
    manifest = opened((whole / "manifest.json").read_bytes())
    shutil.copytree(whole, folder / LAST)
    stop = threading.Event()

    def write_and_delete() -> None:
        for step in itertools.count(STEPS + 1):
            draft = folder / f".{checkpoint_name(step)}.draft"
            shutil.copytree(whole, draft)
            this = sealed(manifest.model_copy(update={"step": step}))
            (draft / "manifest.json").write_text(this.model_dump_json())
            draft.rename(folder / checkpoint_name(step))
            keep_newest(folder, 1)
            if stop.is_set():
                return

    with locked(tmp_path / "output"), ThreadPoolExecutor() as pool:
        run = pool.submit(write_and_delete)
        try:
            for number in range(6):
                file = export(tmp_path / "output", "--output", tmp_path / f"{number}.safetensors")
                assert file.stat().st_size > 0
        finally:
            stop.set()
        run.result()
    assert len(list(folder.iterdir())) == 1


def test_pictures_of_a_checkpoint_are_those_of_its_file(
    averaged: Path, plain: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    def picture(*adapter: object) -> bytes:
        return painted(tmp_path / "a.png", "--base", tiny_folder, "--adapter", *adapter)

    mean = picture(averaged / "result" / ADAPTER)
    live = picture(plain / "result")

    assert mean != live
    assert picture(averaged) == mean
    state = averaged / "checkpoints" / LAST / "state.safetensors"
    assert picture(state, "--weights", "live") == live
    with pytest.raises(AdapterFileError, match="is no checkpoint: --weights chooses"):
        picture(plain / "result" / ADAPTER, "--weights", "live")
    with pytest.raises(AdapterFileError, match="neither a checkpoint nor pytorch_lora"):
        picture(tmp_path)
    with pytest.raises(AdapterFileError, match=r"there is no .*step-9: name an adapter file"):
        picture(averaged / "step-9")
    without = ("--base", tiny_folder, "--weights", "ema", "--output", tmp_path / "a.png")
    assert reverie("generate", *SMALL, *without).exit_code == 2


def test_a_checkpoint_is_merged_as_its_file(
    averaged: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    files = []
    for name, adapter in (("checkpoint", averaged), ("file", averaged / "result" / ADAPTER)):
        folder = tmp_path / name
        arguments = ("--base", tiny_folder, "--adapter", adapter, "--output", folder)
        result = reverie("merge", *arguments, "--dtype", "fp32")
        assert result.exit_code == 0, result.output
        files.append(files_in(folder / "transformer"))

    assert files[0] == files[1]
    facts = json.loads((tmp_path / "checkpoint" / "merge.json").read_text())
    assert facts["adapter"] == f"{LAST}-ema.safetensors"


def test_an_adapter_is_no_base_model(averaged: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for adapter in (averaged, averaged / "result", averaged / "result" / ADAPTER):
        with pytest.raises(BaseModelError, match=r"is an adapter, not a base model: .* --adapter"):
            painted(file, "--base", adapter)
    with pytest.raises(BaseModelError, match="has checkpoints and no full-rank result"):
        painted(file, "--base", averaged / "checkpoints")
