"""A disk that is full, read-only or gone ends a local run with one line and the way on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.jobs import events_in
from tests.support.local_commands import Commands
from tests.support.own_disk import fill, mounted_disk, remount, unmount
from tests.support.waiting import wait_until
from trainer_core.checkpoint.folders import check_digests, stored_checkpoints
from trainer_core.checkpoint.layout import MANIFEST_NAME
from trainer_core.export.origin import ADAPTER_NAME

FULL: Final = (
    "there is no space left for {}: free some on its disk, then give the same command again"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a run, its cache and its result."""
    folder = tmp_path / "disk"
    with mounted_disk(folder, "size=40m"):
        yield folder


PLACES: Final = (
    ("encode.before_write", ("cache",)),
    ("encode.before_rename", ("cache",)),
    ("encode.after_rename", ("cache",)),
    # The last page of the file has room for some events.
    ("train.loaded", ("events.jsonl", "checkpoints/step-00000001")),
    ("checkpoint.before_state@1", ("checkpoints/step-00000001",)),
    ("checkpoint.before_manifest@1", ("checkpoints/step-00000001",)),
    ("checkpoint.before_event@1", ("events.jsonl", "checkpoints/step-00000002")),
    ("train.after_step@1", ("events.jsonl", "checkpoints/step-00000002")),
    ("checkpoint.before_state@2", ("checkpoints/step-00000003",)),
    ("result.before_adapter", ("result",)),
    ("result.before_manifest", ("result",)),
)
"""The disk fills here → what is written next, in the output folder."""


def train_until_full(commands: Commands, disk: Path, place: str, written: tuple[str, ...]) -> None:
    """The run ends with one line, and what it wrote before is whole."""
    output = disk / "out"
    env = {"FAULT_AT": f"{place}=fill", "FAULT_FILL": str(disk), "REVERIE_ENV": "test"}
    before = checkpoints_of(output)

    status, said = commands.train(output, **env)

    (disk / "filler").unlink()
    assert status == 1, said
    assert commands.error_of(said) in [FULL.format(output / name) for name in written], place
    last = events_in(output)[-1]
    if last["event"] == "failed":  # there may be no room for it
        words = (last["code"], last["category"], last["retryable"])
        assert words == ("disk_full", "infra", True)
    after = checkpoints_of(output)
    assert after | before == after
    assert not list((output / "checkpoints").glob(".*"))
    assert not list((output / "cache").glob(".*.tmp"))


def checkpoints_of(output: Path) -> dict[str, bytes]:
    """Name → manifest of every checkpoint; its files are those of the manifest."""
    stored = stored_checkpoints(output / "checkpoints")
    assert not stored.damaged
    for checkpoint in stored.whole:
        check_digests(checkpoint)
    return {each.name: (each / MANIFEST_NAME).read_bytes() for each in stored.whole}


def test_a_run_goes_on_after_its_disk_was_full(commands: Commands, disk: Path) -> None:
    train_until_full(commands, disk, "checkpoint.before_state@2", ("checkpoints/step-00000002",))
    assert list(checkpoints_of(disk / "out")) == ["step-00000001"]

    train_until_full(commands, disk, "result.before_adapter", ("result",))
    assert not (disk / "out/result").exists()


@pytest.mark.deep
def test_a_run_whose_disk_is_full_at_any_write_ends_with_the_bytes_of_an_undisturbed_one(
    commands: Commands, trained: Path, disk: Path
) -> None:
    output = disk / "out"
    for place, written in PLACES:
        train_until_full(commands, disk, place, written)

    status, said = commands.train(output)
    assert status == 0, said
    for name in (ADAPTER_NAME, "card.json"):
        assert (output / "result" / name).read_bytes() == (trained / "result" / name).read_bytes()


@pytest.mark.deep
def test_a_disk_that_is_full_or_read_only_at_the_start_is_named(
    commands: Commands, trained: Path, disk: Path, tmp_path: Path
) -> None:
    fill(disk)
    output = disk / "out"
    adapter = trained / "result" / ADAPTER_NAME
    generate = ("generate", "--base", "hidream-tiny", "--prompt", "a cat", "--output")

    status, said = commands.train(output)
    assert (status, commands.error_of(said)) == (1, FULL.format(output))
    # Only the cache is on this disk.
    status, said = commands.train(tmp_path / "out", "--cache", disk / "cache")
    assert (status, commands.error_of(said)) == (1, FULL.format(disk / "cache/pictures.json"))

    remount(disk, "ro")
    for place, argv in {
        output: ("train", "--config", commands.config, "--output", output),
        disk / "cat.png": (*generate, disk / "cat.png"),
        disk / "merged": (
            *("merge", "--base", "hidream-tiny", "--adapter", adapter),
            *("--output", disk / "merged"),
        ),
    }.items():
        status, said = commands.run(*argv)
        assert status == 1, said
        assert commands.error_of(said) == (
            f"{place} is on a disk that is mounted read-only: mount it with the right to write, or "
            "name another folder, then give the same command again"
        )


@pytest.mark.deep
def test_a_run_whose_disk_is_unmounted_does_not_go_on_in_the_folder_below(
    commands: Commands, disk: Path, tmp_path: Path
) -> None:
    events, control = tmp_path / "events.jsonl", tmp_path / "control"
    more = ("--set", "max_train_steps=5000", "--events", events, "--control", control)
    ended: list[tuple[int, str]] = []
    run = threading.Thread(target=lambda: ended.append(commands.train(disk / "out", *more)))
    run.start()
    wait_until(
        lambda: any(event["event"] == "checkpoint" for event in events_in(tmp_path)),
        what="a checkpoint",
    )
    control.write_text("pause")
    wait_until(lambda: events_in(tmp_path)[-1].get("stage") == "paused", what="the pause")

    unmount(disk)
    control.write_text("run")
    run.join()

    status, said = ended[0]
    message = (
        f"{disk / 'out/checkpoints'} is gone: it was deleted, or its disk is not mounted any more. "
        "Mount it again, then give the same command again"
    )
    assert (status, commands.error_of(said)) == (1, message)
    last = events_in(tmp_path)[-1]
    assert (last["code"], last["message"], last["retryable"]) == ("disk_failed", message, True)
    assert list(disk.iterdir()) == []
