"""Pictures, captions, their order, or the base model are other ones than the checkpoint's."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import pytest

from tests.support import damage
from tests.support.jobs import EXAMPLES
from tests.support.local_attempts import FIRST, LAST, Runs, step
from trainer_core.base_models.describe import describe_base
from trainer_core.base_models.obtain import find_base
from trainer_core.errors import BaseModelError, CheckpointError
from trainer_core.process.job import read_job

CHANGES: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "a caption": (
        lambda photos: (photos / "astronaut_portrait.txt").write_text("a cat"),
        "photos/astronaut_portrait.jpg has another caption",
    ),
    "a picture": (
        lambda photos: shutil.copy(EXAMPLES / "photos/train/grass.jpg", photos / FIRST),
        "photos/astronaut_portrait.jpg is another picture",
    ),
    "a picture less": (
        lambda photos: (photos / FIRST).unlink(),
        "photos/astronaut_portrait.jpg is missing",
    ),
    "a picture more": (
        lambda photos: [
            shutil.copy(EXAMPLES / f"photos/train/grass{suffix}", photos)
            for suffix in (".jpg", ".txt")
        ],
        "photos/grass.jpg is new",
    ),
}
"""What changed in the folder of the pictures → what does it, and what the refusal says."""


@pytest.mark.parametrize("what", CHANGES)
def test_a_refused_resume_names_the_picture_or_caption_that_changed(
    runs: Runs, own_photos: Path, what: str
) -> None:
    runs.start("latest", stop_at=1)
    do, words = CHANGES[what]
    do(own_photos)

    for request in ("latest", str(runs.output / "checkpoints" / step(1))):
        with pytest.raises(CheckpointError) as caught:
            runs.start(request)
        assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"
    assert runs.started_at == [0]


def test_a_checkpoint_that_was_set_aside_still_knows_its_pictures(
    runs: Runs, own_photos: Path
) -> None:
    runs.start("latest", stop_at=1)
    (own_photos / FIRST).with_suffix(".txt").write_text("a cat")
    runs.start("", stop_at=1)

    with pytest.raises(CheckpointError, match=r"portrait\.jpg has another caption"):
        runs.start(str(next(runs.output.glob("set-aside-*")) / step(1)))


OLDER_ORDER: Final = (
    "the run goes on in the order of samples that it began with, by the names of the files; new "
    "runs go by the content of the files"
)


@pytest.mark.parametrize("request_", ["latest", ""])
def test_a_run_of_before_goes_on_in_its_order_of_samples(runs: Runs, request_: str) -> None:
    runs.order = 1
    runs.start(request_, stop_at=2)
    assert (runs.output / "job.json").exists()
    runs.order, runs.logged[:] = 2, []

    runs.start(request_, stop_at=3)
    runs.start(request_)

    assert runs.started_at == [0, 2, 3]
    assert runs.logged.count(OLDER_ORDER) == 2
    assert runs.aside() == []
    assert read_job(runs.output / "job.json").plan.identity.sample_order == 1


def test_a_run_from_a_checkpoint_of_before_has_its_order(runs: Runs) -> None:
    runs.order = 1
    runs.start("latest", stop_at=2)
    runs.order = 2

    for stop_at in (3, LAST):
        runs.start(step(1), stop_at=stop_at)

    assert runs.started_at == [0, 1, 3]
    assert runs.logged.count(OLDER_ORDER) == 3  # and of the first run
    # The next run from the start is a new one.
    runs.start("", stop_at=1)
    assert read_job(runs.output / "job.json").plan.identity.sample_order == 2


def test_the_order_of_before_mixes_nothing(runs: Runs) -> None:
    """It is not taken on where the options ask for more; the refusal names these."""
    runs.order = 1
    runs.start("latest", stop_at=1)
    runs.order, runs.probability = 2, 0.5

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    assert caught.value.message == (
        f"{step(1)} cannot be resumed here: data backend photos, probability: 0.5 here, absent in "
        "the checkpoint; data backend held-out, probability: 0.5 here, absent in the checkpoint"
    )


@pytest.mark.parametrize("order", [1, 2])
def test_a_renamed_picture_changes_nothing_but_in_the_order_by_names(
    runs: Runs, own_photos: Path, order: Literal[1, 2]
) -> None:
    runs.order = order
    runs.start("latest", stop_at=1)
    for suffix in (".jpg", ".txt"):
        (own_photos / FIRST).with_suffix(suffix).rename(own_photos / f"zebra{suffix}")

    if order == 2:
        runs.start("latest")
        assert runs.started_at == [0, 1]
        return
    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")
    assert caught.value.message == (
        f"{step(1)} cannot be resumed here: photos/{FIRST} is missing; photos/zebra.jpg is new"
    )


def test_a_refusal_does_not_name_what_was_only_renamed(runs: Runs, own_photos: Path) -> None:
    runs.start("latest", stop_at=1)
    other = next(path for path in own_photos.glob("*.jpg") if path.name != FIRST)
    other.with_suffix(".txt").write_text("a cat")
    for suffix in (".jpg", ".txt"):
        (own_photos / FIRST).with_suffix(suffix).rename(own_photos / f"zebra{suffix}")

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    words = f"photos/{other.name} has another caption"
    assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_refused_resume_names_the_weights_that_changed(
    runs: Runs, own_photos: Path, tmp_path: Path, tiny_folder: Path, is_listed: bool
) -> None:
    runs.start("latest", stop_at=1)
    folder = tmp_path / "models" / "changed"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("reverie*"))
    damage.flip_last(folder / "vae" / "diffusion_pytorch_model.safetensors")
    if is_listed:
        describe_base(folder, "hidream-tiny")
        env = {"REVERIE_MODELS_DIR": str(folder.parent)}
        runs.base = find_base("hidream-tiny", env=env, folders=())
    else:
        env = {"REVERIE_HOME": str(tmp_path)}
        runs.base = find_base(str(folder), env=env, folders=(tmp_path,))

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    words = "the base model: vae/diffusion_pytorch_model.safetensors has another content"
    assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"


@pytest.mark.parametrize("request_", ["latest", ""])
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_base_model_that_was_damaged_ends_a_start_and_a_resume(
    runs: Runs, tmp_path: Path, tiny_folder: Path, is_listed: bool, request_: str
) -> None:
    folder = tmp_path / "models" / "mine"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("reverie*"))
    env = {"REVERIE_HOME": str(tmp_path)}
    if is_listed:
        describe_base(folder, "mine")
        env["REVERIE_MODELS_DIR"] = str(folder.parent)
    runs.base = find_base("mine" if is_listed else str(folder), env=env, folders=(tmp_path,))
    runs.start(request_, stop_at=1)
    before = runs.stored_files()
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"

    damage.flip_last(weights)

    with pytest.raises(BaseModelError, match=f"^{weights} is damaged: "):
        runs.start(request_)
    assert runs.stored_files() == before
    damage.flip_last(weights)  # put back
    runs.start(request_)
    assert runs.started_at == [0, 1]
