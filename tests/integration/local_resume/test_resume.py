"""Which checkpoint a run goes on from, or none, and what is told of damaged ones."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support import damage
from tests.support.local_attempts import LAST, Runs, step
from trainer_core.checkpoint.layout import MANIFEST_NAME, STATE_NAME
from trainer_core.errors import CheckpointError, NoWholeCheckpointError
from trainer_core.process.job import read_job


@pytest.mark.parametrize("why", ["other plan", "damage", "beyond the end"])
def test_a_refusal_changes_nothing(runs: Runs, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.start("latest")
    seed, request = 42, step(1)
    match why:
        case "other plan":
            seed = 7
        case "damage":
            state = runs.output / "checkpoints" / step(1) / STATE_NAME
            state.write_bytes(state.read_bytes()[:-1] + b"x")
        case _:
            request = step(4)
            runs.last = 3
    before = runs.stored_files()

    with pytest.raises(CheckpointError):
        runs.start(request, seed=seed)

    assert runs.stored_files() == before
    assert runs.started_at == [0]


def test_a_run_goes_on_in_epochs_if_these_reach_further(runs: Runs) -> None:
    runs.start("latest", stop_at=2)
    runs.last, runs.epochs = None, 1

    with pytest.raises(CheckpointError, match="is at step 2, the plan ends at 1"):
        runs.start("latest")

    runs.epochs = 400
    runs.start("latest")
    assert runs.started_at == [0, 2]


def truncated(folder: Path) -> None:
    damage.truncate(folder / STATE_NAME)


def another_cursor(folder: Path) -> None:
    """One digit is another one; it is still a manifest."""
    manifest = folder / MANIFEST_NAME
    text = manifest.read_text()
    assert '"cursor": 3' in text
    manifest.write_text(text.replace('"cursor": 3', '"cursor": 7'))


def another_step(folder: Path) -> None:
    """A copy of another checkpoint, under this one's name."""
    shutil.copytree(folder.with_name(step(2)), folder, dirs_exist_ok=True)


DAMAGES: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "truncated": (truncated, f"{STATE_NAME} has 66 bytes, and 132 in its manifest"),
    "flipped": (
        lambda folder: damage.flip_last(folder / STATE_NAME),
        f"{STATE_NAME} is damaged: its SHA-256 is not the one in its manifest",
    ),
    "gone": (lambda folder: damage.remove(folder / STATE_NAME), f"{STATE_NAME} is missing"),
    "manifest cut": (
        lambda folder: damage.truncate(folder / MANIFEST_NAME),
        f"{MANIFEST_NAME} is damaged, or of a newer version",
    ),
    "manifest changed": (another_cursor, f"{MANIFEST_NAME} is damaged, or of a newer version"),
    "manifest gone": (
        lambda folder: damage.remove(folder / MANIFEST_NAME),
        f"{MANIFEST_NAME} is missing",
    ),
    "another step's": (another_step, f"{MANIFEST_NAME} is the one of step 2"),
}
"""What happened to a checkpoint's folder → what does it, and what is said of it."""


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_is_used(
    runs: Runs, how: str
) -> None:
    runs.start("latest", stop_at=3)
    do, words = DAMAGES[how]
    do(runs.output / "checkpoints" / step(3))

    runs.start("latest")

    assert runs.started_at == [0, 2]
    assert runs.warnings() == [
        ("checkpoint_corrupt", f"{step(3)}/{words}. The run goes on from step 2.")
    ]
    assert runs.steps() == [1, 2, 3, 4]
    assert runs.aside() == ["job.json", step(3)]
    runs.start("latest")
    assert len(runs.warnings()) == 1


def test_of_several_damaged_checkpoints_each_is_named(runs: Runs) -> None:
    runs.start("latest", stop_at=3)
    damage.flip_last(runs.output / "checkpoints" / step(3) / STATE_NAME)
    damage.remove(runs.output / "checkpoints" / step(2) / MANIFEST_NAME)

    runs.start("latest")

    assert runs.started_at == [0, 1]
    assert [message.partition("/")[0] for _, message in runs.warnings()] == [step(2), step(3)]
    assert runs.aside() == ["job.json", step(2), step(3)]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_without_a_whole_checkpoint_is_refused_and_nothing_is_changed(
    runs: Runs, how: str
) -> None:
    runs.start("latest", stop_at=3)
    do, words = DAMAGES[how]
    do(runs.output / "checkpoints" / step(3))
    for number in (1, 2):
        damage.flip_last(runs.output / "checkpoints" / step(number) / STATE_NAME)
    before = runs.stored_files()

    with pytest.raises(NoWholeCheckpointError) as caught:
        runs.start("latest")

    assert not caught.value.retryable
    message = caught.value.message
    assert message.startswith(f"none of the checkpoints in {runs.output}/checkpoints is whole: ")
    assert f"{step(3)}/{words}" in message
    assert message.endswith("or start at step 0 with --set resume_from_checkpoint=")
    assert runs.stored_files() == before
    assert runs.started_at == [0]

    # The way on that the message names.
    runs.start("", stop_at=1)
    runs.start("")
    assert runs.started_at == [0, 0, 1]


@pytest.mark.parametrize("path", ["through a link", "with dots"])
def test_an_own_checkpoint_is_recognised_by_any_path(runs: Runs, path: str) -> None:
    runs.start("latest")
    link = runs.output.with_name("link")
    link.symlink_to(runs.output)
    place = link if path == "through a link" else runs.output / ".." / "out"

    runs.start(str(place / "checkpoints" / step(2)), stop_at=3)

    assert runs.started_at == [0, 2]
    assert runs.steps() == [1, 2, 3]
    assert runs.aside() == ["job.json", "result", step(3), step(4)]


def test_a_run_started_at_step_0_is_resumed_until_it_has_finished(runs: Runs) -> None:
    runs.start("latest")

    for stop_at in (2, 3, LAST):
        runs.start("", stop_at=stop_at)
    assert runs.started_at == [0, 0, 2, 3]
    assert runs.aside() == ["job.json", "result", *map(step, (1, 2, 3, 4))]

    runs.start("", stop_at=1)  # that one had finished: a new one starts
    assert runs.started_at[-1] == 0


def test_a_run_started_from_a_checkpoint_is_resumed_even_when_that_is_gone(runs: Runs) -> None:
    runs.start("latest")
    runs.start(step(2), stop_at=3)
    (runs.output / "checkpoints" / step(2)).rename(runs.output / "gone")

    assert runs.start(step(2)) == runs.output / "result"

    assert runs.started_at == [0, 2, 3]


def test_another_plan_with_the_same_request_starts_anew(runs: Runs) -> None:
    runs.start("", stop_at=2)
    runs.start("", stop_at=3, seed=7)

    assert runs.started_at == [0, 0]
    assert runs.aside() == ["job.json", step(1), step(2)]


def test_a_drawn_seed_is_the_one_of_the_checkpoint(runs: Runs) -> None:
    runs.start("latest", stop_at=1, seed=1111, drawn=True)
    with pytest.raises(CheckpointError, match="seed: 7 here, 1111"):
        runs.start("latest", seed=7)

    runs.start("latest", stop_at=2, seed=2222, drawn=True)

    assert read_job(runs.output / "job.json").plan.identity.seed == 1111
    checkpoint = str(runs.output / "checkpoints" / step(2))
    runs.output = runs.output.with_name("another")
    runs.output.mkdir()
    runs.start(checkpoint, stop_at=3, seed=3333, drawn=True)
    assert read_job(runs.output / "job.json").plan.identity.seed == 1111
    assert runs.started_at == [0, 1, 2]


def test_another_drawn_seed_does_not_keep_a_run_from_being_resumed(runs: Runs) -> None:
    runs.start("", stop_at=1, seed=1111, drawn=True)
    runs.start("", stop_at=2, seed=2222, drawn=True)

    assert runs.started_at == [0, 1]


def test_a_run_from_an_adapter_is_resumed_and_is_another_one_than_without_it(
    runs: Runs, tmp_path: Path
) -> None:
    runs.start("latest", stop_at=1, start_from=tmp_path / "old.safetensors")
    job = read_job(runs.output / "job.json")
    assert job.start_from == str(tmp_path / "old.safetensors")
    runs.start("latest", stop_at=2, start_from=tmp_path / "old.safetensors")
    assert runs.started_at == [0, 1]
    ways = (
        f"to go on with it, set init_lora to {tmp_path / 'old.safetensors'}; otherwise give this "
        "one another output_dir (or --output), or set resume_from_checkpoint to nothing"
    )
    with pytest.raises(CheckpointError, match="init_lora: absent here") as caught:
        runs.start("latest")
    assert f"started from init_lora, which this one does not name: {ways}" in str(caught.value)
    with pytest.raises(CheckpointError, match="started from another init_lora: ") as caught:
        runs.start("latest", start_from=tmp_path / "new.safetensors")
    assert ways in str(caught.value)

    runs.output = runs.output.with_name("another")
    runs.output.mkdir()
    runs.start("latest", stop_at=1)
    words = r"The folder holds a run that did not start from init_lora: give this one another"
    with pytest.raises(CheckpointError, match=words):
        runs.start("latest", start_from=tmp_path / "old.safetensors")
    runs.start("", stop_at=1, start_from=tmp_path / "old.safetensors")
    assert runs.started_at == [0, 1, 0, 0]
