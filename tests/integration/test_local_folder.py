"""The output folder of local runs: one run at a time, its checkpoints, and what is set aside."""

import os
from pathlib import Path

import pytest

from trainer_core.checkpoint.layout import (
    MANIFEST_NAME,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
)
from trainer_core.local.folder import (
    OutputInUseError,
    find_checkpoints,
    locked,
    restore_interrupted,
    set_aside,
)
from trainer_core.local.start import Checkpoints


def test_a_second_run_in_one_folder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(OutputInUseError, match=f"process {os.getpid()} "),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def checkpoint(folder: Path, step: int, *, size: int | None = None) -> Path:
    size = step if size is None else size
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_bytes(b"x" * size)
    facts = {"state.safetensors": FileFacts(size_bytes=size, sha256="0" * 64)}
    manifest = CheckpointManifest(
        step=step,
        cursor=step,
        identity_digest="0" * 64,
        data_digest="0" * 64,
        base_digest="0" * 64,
        scalars={},
        files=facts,
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return folder


def result(folder: Path, step: int) -> None:
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(ResultManifest(step=step, files={}).model_dump_json())


def test_latest_is_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoints("latest", tmp_path, ()) == Checkpoints()
    steps = {n: checkpoint(tmp_path / "checkpoints" / f"step-{n:08d}", n) for n in (5, 10, 20, 30)}
    (steps[20] / "state.safetensors").write_bytes(b"short")
    (steps[30] / MANIFEST_NAME).unlink()
    (tmp_path / "checkpoints" / ".step-00000040.draft").mkdir()

    for request in ("latest", ""):
        found = find_checkpoints(request, tmp_path, ())
        assert found.newest == steps[10]
        assert [(each.path, each.why) for each in found.damaged] == [
            (steps[20], "step-00000020/state.safetensors has 5 bytes, and 20 in its manifest"),
            (steps[30], "step-00000030/manifest.json is missing"),
        ]


def test_a_checkpoint_is_taken_by_path_or_by_its_name(tmp_path: Path) -> None:
    here = checkpoint(tmp_path / "out" / "checkpoints" / "step-00000005", 5)
    other = checkpoint(tmp_path / "other" / "step-00000007", 7)
    for request, found in (
        ("step-00000005", here),
        ("other/step-00000007", other),
        (str(other), other),
    ):
        assert find_checkpoints(request, tmp_path / "out", (tmp_path,)) == Checkpoints(
            own=(here,), requested=found
        )
    (other / "state.safetensors").unlink()
    for request, problem in (
        ("step-00000009", "resume_from_checkpoint names step-00000009, which is not a folder"),
        (str(other), f"{other} is damaged: step-00000007/state.safetensors is missing"),
    ):
        found_here = find_checkpoints(request, tmp_path / "out", (tmp_path,))
        assert (found_here.newest, found_here.requested) == (here, None)
        assert found_here.problem is not None
        assert problem in found_here.problem.reason
        assert found_here.problem.is_damage == (request == str(other))


def test_latest_goes_by_the_step_and_not_by_the_name(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}", step, size=1)
    checkpoint(tmp_path / "checkpoints" / "zz-mine", 7)

    newest = find_checkpoints("latest", tmp_path, ()).newest

    assert newest is not None
    assert newest.name == "step-100000000"


@pytest.mark.parametrize("name", ["keep", "step-00000020", "step-00000009"])
def test_an_incomplete_or_foreign_folder_moves_no_result(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "checkpoints" / "step-00000010", 10)
    result(tmp_path / "result", 10)
    other = tmp_path / "checkpoints" / name
    if name == "step-00000009":
        checkpoint(other, 9)
    else:
        other.mkdir()

    assert set_aside(tmp_path, after_step=10) is None

    assert other.is_dir()
    assert (tmp_path / "result").is_dir()


def test_what_a_killed_run_moved_aside_gets_its_name_back(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints" / ".step-00000005.old", 5)
    result(tmp_path / ".result.old", 5)

    restore_interrupted(tmp_path)

    newest = find_checkpoints("latest", tmp_path, ()).newest
    assert newest == tmp_path / "checkpoints" / "step-00000005"
    assert (tmp_path / "result").is_dir()


def test_later_checkpoints_of_an_earlier_run_are_moved_not_deleted(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}", step)
    result(tmp_path / "result", 10)

    assert set_aside(tmp_path, after_step=10) is None
    aside = set_aside(tmp_path, after_step=5)

    assert aside is not None
    assert sorted(path.name for path in aside.iterdir()) == ["result", "step-00000010"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
