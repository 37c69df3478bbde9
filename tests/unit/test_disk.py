"""What is written to a disk that is full, read-only or gone: one error with the way on."""

import errno
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from services.cli.train_view import PlainView
from tests.support.own_disk import fill, mounted_disk, remount, unmount
from tests.unit.test_checkpoint_folder import write
from trainer_core.base_models.hash_once import digest_folder
from trainer_core.checkpoint.folders import check_digests, committed_checkpoints
from trainer_core.checkpoint.write import write_result
from trainer_core.disk import DiskError, disk_error, reading, require_folder, writing
from trainer_core.local.folder import locked, move_aside, replace_file
from trainer_core.process.events import EventWriter
from trainer_core.process.failure import failure_of
from trainer_core.progress import SilentReporter

FULL: Final = (
    "there is no space left for {}: free some on its disk, then give the same command again"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    with mounted_disk(folder, "size=512k"):
        yield folder


@pytest.mark.parametrize("place", ["checkpoint.before_state", "checkpoint.before_manifest"])
def test_a_checkpoint_that_finds_no_space_leaves_nothing_and_earlier_ones_whole(
    disk: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = disk / "checkpoints"
    earlier = write(checkpoints, 3)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{place}=fill")
    monkeypatch.setenv("FAULT_FILL", str(disk))

    with pytest.raises(DiskError) as caught:
        write(checkpoints, 4)

    assert caught.value.message == FULL.format(checkpoints / "step-00000004")
    assert [each.name for each in checkpoints.iterdir()] == ["step-00000003"]
    check_digests(earlier.path)
    # Other tenants' logs and the service get words without a path.
    failure = failure_of(caught.value)
    assert (failure.code, failure.category, failure.retryable) == ("disk_full", "infra", True)
    assert str(disk) not in failure.message

    monkeypatch.delenv("FAULT_AT")
    (disk / "filler").unlink()
    undisturbed = write(disk.with_name("elsewhere"), 4)
    assert write(checkpoints, 4).manifest_sha256 == undisturbed.manifest_sha256
    assert len(committed_checkpoints(checkpoints)) == 2


def write_large_result(folder: Path) -> None:
    """Of more bytes than a page."""
    write_result(
        folder, 4, lambda draft: save_file({"a": torch.zeros(5000)}, draft / "adapter.safetensors")
    )


@pytest.mark.parametrize("place", ["result.before_adapter", "result.before_manifest"])
def test_a_result_that_finds_no_space_leaves_nothing(
    disk: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{place}=fill")
    monkeypatch.setenv("FAULT_FILL", str(disk))

    with pytest.raises(DiskError) as caught:
        write_large_result(disk / "result")

    assert caught.value.message == FULL.format(disk / "result")
    assert [each.name for each in disk.iterdir()] == ["filler"]


def test_the_log_of_events_keeps_whole_lines_and_goes_on_when_there_is_space(disk: Path) -> None:
    log = disk / "events.jsonl"
    with EventWriter(log) as events:
        events.emit("stage", 0, {"stage": "loading"})
        filler = fill(disk)

        events.emit("stage", 0, {"stage": "training"})  # the last page of the file has room for it
        with pytest.raises(DiskError) as caught:
            events.emit("step", 1, {"text": "x" * 5000})

        assert caught.value.message == FULL.format(log)
        assert log.read_bytes().endswith(b"}\n")
        filler.unlink()
        events.emit("stage", 1, {"stage": "sampling"})

    numbers = [json.loads(line)["seq"] for line in log.read_text().splitlines()]
    assert numbers == [1, 2, 3]


def test_a_log_on_a_full_disk_ends_the_display_and_not_the_run(disk: Path, tmp_path: Path) -> None:
    with (disk / "log").open("w") as log:
        view = PlainView(Console(file=log))
        with EventWriter(tmp_path / "events.jsonl") as events:
            events.listen("the display", view.event)
            filler = fill(disk)
            events.emit("stage", 0, {"stage": "loading"})
            events.emit("stage", 0, {"stage": "training"})
        filler.unlink()

    first, warning, last = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (first["stage"], last["stage"]) == ("loading", "training")
    assert warning["message"].endswith(f"DiskError: {FULL.format('standard error')}")


def test_a_file_that_finds_no_space_keeps_its_content(disk: Path) -> None:
    file = disk / "job.json"
    replace_file(file, "before")
    fill(disk)

    with pytest.raises(DiskError) as caught:
        replace_file(file, "after" * 5000)

    assert caught.value.message == FULL.format(file)
    assert file.read_text() == "before"
    assert sorted(each.name for each in disk.iterdir()) == ["filler", "job.json"]


def test_a_record_that_finds_no_space_leaves_no_draft(disk: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"weights")
    (disk / "hashes").mkdir()
    fill(disk)

    with pytest.raises(OSError, match="No space left"):
        digest_folder(model, disk, SilentReporter())

    assert list((disk / "hashes").iterdir()) == []


def test_a_disk_that_is_read_only_is_named(disk: Path) -> None:
    output = disk / "out"
    output.mkdir()
    remount(disk, "ro")

    for place, write_there in (
        (output, lambda: locked(output).__enter__()),
        (output / "job.json", lambda: replace_file(output / "job.json", "{}")),
        (output / "checkpoints/step-00000004", lambda: write(output / "checkpoints")),
        (output / "events.jsonl", lambda: EventWriter(output / "events.jsonl")),
    ):
        with pytest.raises(DiskError) as caught:
            write_there()
        assert caught.value.message.endswith(
            " is on a disk that is mounted read-only: mount it with the right to write, or name "
            "another folder, then give the same command again"
        )
        named = Path(caught.value.message.partition(" is on")[0])
        assert place.is_relative_to(named)
        assert named.is_relative_to(output)

    with pytest.raises(DiskError, match="mounted read-only"):
        move_aside(output, [])


def test_a_folder_without_the_right_to_write_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        folder.mkdir(mode=0o555)
        Path(name).chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write in spite of the mode
        try:
            with pytest.raises(DiskError) as caught:
                replace_file(folder / "job.json", "{}")
        finally:
            os.seteuid(user)

    assert caught.value.message == (
        f"this user has no right to {folder / 'job.json'}: change its permissions, or name another "
        "folder, then give the same command again"
    )


def test_a_folder_that_went_with_its_disk_is_gone(disk: Path) -> None:
    folder = disk / "checkpoints"
    folder.mkdir()
    require_folder(folder)

    unmount(disk)

    with pytest.raises(DiskError) as caught:
        require_folder(folder)
    assert caught.value.message == (
        f"{folder} is gone: it was deleted, or its disk is not mounted any more. Mount it again, "
        "then give the same command again"
    )


def test_a_file_beyond_the_largest_size_is_named(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DiskError) as caught:
            write_large_result(tmp_path / "result")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.code == "disk_full"
    assert caught.value.message == (
        f"{tmp_path / 'result'} became larger than its disk or this user's limit allows: "
        "name a folder on another disk, or raise the limit (ulimit -f), then give the same command "
        "again"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_something_else_stays_what_it_is(tmp_path: Path) -> None:
    for error in (FileNotFoundError(2, "none"), ValueError("(os error 28)"), ConnectionError()):
        assert disk_error(error) is None
        with pytest.raises(type(error)), writing(tmp_path):
            raise error


def test_the_file_of_the_error_is_named_unless_it_is_hidden(tmp_path: Path) -> None:
    for name, shown in (("cat.jpg", "cat.jpg"), (".draft/0/cat.jpg", "out"), (None, "out")):
        error = OSError(errno.EIO, "Input/output error", name and str(tmp_path / name))
        found = disk_error(error, tmp_path / "out")
        assert found is not None
        assert found.message.startswith(f"the disk of {tmp_path / shown} does not answer: ")


def test_without_a_name_the_words_of_the_system_stay() -> None:
    found = disk_error(OSError(errno.ENOSPC, "No space left on device"))

    assert found is not None
    assert found.message == "the system says: No space left on device. It does not name the file"


def test_a_file_that_cannot_be_read_is_named_and_not_the_one_that_is_written(
    tmp_path: Path,
) -> None:
    out, other = tmp_path / "out", tmp_path / "in"
    with pytest.raises(DiskError) as caught, writing(out), reading(other):
        raise OSError(errno.EIO, "Input/output error")

    assert caught.value.message.startswith(f"the disk of {other} does not answer: ")
