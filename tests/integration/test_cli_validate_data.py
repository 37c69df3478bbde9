"""`reverie validate`: what it finds in the image folders, and shows of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from tests.support.planted_pictures import plant_odd
from tests.support.validating import Answer, write
from tests.unit.config_examples import (
    REGULARISATION,
    SUBJECT,
    TEXT_EMBEDS,
)


def test_a_contact_sheet_is_written_outside_of_the_images_only(
    project: Path, validate: Callable[..., Answer], tmp_path: Path
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    before = sorted(path.name for path in folder.iterdir())

    _, answer = validate(project, "--contact-sheet", str(tmp_path / "new" / "sheet.jpg"))
    with pytest.raises(CommandError, match=r"is in .*, the images of dreambooth-subject"):
        validate(project, "--contact-sheet", str(folder / "sheet.jpg"))
    with pytest.raises(typer.BadParameter, match=r"sheet\.pdf is neither a file in \.jpg"):
        validate(project, "--contact-sheet", str(tmp_path / "sheet.pdf"))

    assert answer["contact_sheet"] == [str(tmp_path / "new" / "sheet.jpg")]
    with Image.open(answer["contact_sheet"][0]) as sheet:
        assert sheet.format == "JPEG"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_data_is_shown_as_tables(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    plant_odd(folder)
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:500])
    (folder / "large.png").write_bytes((folder / "a.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    app(
        ["validate", "--config", str(project)],
        obj=Invocation(env={"REVERIE_HOME": str(tmp_path / "home")}),
        standalone_mode=False,
    )

    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "dreambooth-subject left out: cannot be read 1 cut.jpg" in shown
    assert (
        "dreambooth-subject left out: too small 11 again-smaller.jpg, again.jpg, clear.png, …"
        in (shown)
    )
    assert "BACKEND ROLE BUCKET IMAGES AN EPOCH CUT AWAY ENLARGED" in shown
    first, second = (f"{each['id']}/a.png" for each in (REGULARISATION, SUBJECT))
    assert f"copies, byte for byte 3 {first} = {second} = {SUBJECT['id']}/large.png" in shown


def test_images_on_this_machine_are_assigned_to_buckets(
    project: Path, validate: Callable[..., Answer]
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    for name, size in {"b.png": (1100, 1100), "c.jpg": (2000, 1000), "s.png": (64, 64)}.items():
        Image.new("RGB", size).save(folder / name)

    status, answer = validate(project)

    assert status == 0
    subject = {"backend": "dreambooth-subject", "role": "train", "repeats": 1000}
    assert answer["buckets"][1:] == [
        {**subject, "width_px": 1024, "height_px": 1024, "images": 2, "samples_per_epoch": 2002},
        {**subject, "width_px": 1472, "height_px": 704, "images": 1, "samples_per_epoch": 1001},
    ]
    assert "1 of 4 images are smaller than" in " ".join(answer["warnings"])


def test_a_run_that_would_fail_at_its_data_is_wrong(
    project: Path, validate: Callable[..., Answer]
) -> None:
    regularisation = project.parent / REGULARISATION["instance_data_dir"]
    folder = project.parent / SUBJECT["instance_data_dir"]
    for name in ("torn.jpg", "worn.jpg"):
        (folder / name).write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (64, 64)).save(regularisation / "a.png")

    torn_status, torn = validate(project)
    for name in ("torn.jpg", "worn.jpg"):
        (folder / name).unlink()
    small_status, small = validate(project)
    shutil.rmtree(folder)
    gone_status, gone = validate(project)

    assert torn_status == small_status == gone_status == 1
    for answer, pointer, words in (
        (
            torn,
            "/data_backends/2",
            f"dreambooth-subject: 2 files in {folder} cannot be used:\n  torn",
        ),
        (small, "/data_backends/1", "No image left: pseudo-camera-10k-hidream: 1 of 1 images are"),
        (gone, "/data_backends/2/instance_data_dir", "is not a folder in any of these places"),
    ):
        (error,) = answer["errors"]
        assert error["pointer"] == pointer
        assert words in error["message"]
        assert answer["trainable_modules"] == 256  # the plan is shown all the same
    assert [bucket["backend"] for bucket in torn["buckets"]] == ["dreambooth-subject"]


def test_a_few_broken_pictures_are_named_and_a_run_could_start(
    project: Path, validate: Callable[..., Answer]
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")

    status, answer = validate(project)

    assert status == 0
    count, why = (each for each in answer["warnings"] if "dreambooth-subject: " in each)
    assert count == "dreambooth-subject: 1 of 2 images cannot be used and is left out."
    assert why.startswith("dreambooth-subject: torn.jpg: not a picture of a known format")
    (left_out,) = answer["data"]["backends"][1]["left_out"]
    assert (left_out["reason"], left_out["count"]) == ("decode_error", 1)
    assert [file["path"] for file in left_out["first"]] == ["torn.jpg"]


def test_a_quick_look_reads_headers_and_says_so(
    project: Path, validate: Callable[..., Answer], tmp_path: Path
) -> None:
    image = project.parent / SUBJECT["instance_data_dir"] / "a.png"
    image.write_bytes(image.read_bytes()[:200])

    closely, _ = validate(project)
    status, answer = validate(project, "--quick")
    with pytest.raises(typer.BadParameter, match="--quick decodes no image"):
        validate(project, "--quick", "--contact-sheet", str(tmp_path / "a.jpg"))

    assert (closely, status) == (1, 0)
    assert answer["data"]["depth"] == "headers"
    assert [bucket["images"] for bucket in answer["buckets"]] == [1, 1]
    assert any(each.startswith("Only the headers of images were") for each in answer["warnings"])


def test_the_steps_of_epochs_are_counted_from_the_folders(
    project: Path, validate: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    backend = {**SUBJECT, "repeats": 1, "minimum_image_size": 0}
    write(project / "multidatabackend.json", [backend, TEXT_EMBEDS])
    length = ("--set=max_train_steps=0", "--set=num_train_epochs=3", "--set=train_batch_size=4")

    folder = project.parent / "datasets/dreambooth-subject"
    shutil.rmtree(folder)
    _, elsewhere = validate(project, *length)
    folder.mkdir()
    for name, size in {"a": (1100, 1100), "b": (1100, 1100), "c": (2000, 1000)}.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    status, answer = validate(project, *length, "--set=lr_warmup_steps=7")
    asked = ("--set=use_ema=true", "--set=ema_update_interval=7")
    failed, refused = validate(project, *length, *asked)

    assert (elsewhere["steps"], elsewhere["epochs"]) == (None, 3)
    # Four uses of the squares are a batch, two of the wide one are topped up to one.
    assert (status, answer["steps"], answer["epochs"]) == (0, 6, 3)
    assert "lr_warmup_steps: 7 is longer than the run of 6 steps." in answer["warnings"]
    assert failed == 1
    (error,) = refused["errors"]
    assert error["pointer"] == "/config/ema_update_interval"
    app(
        ["validate", "--config", str(project), *length],
        obj=Invocation(env={"REVERIE_HOME": str(project)}),
        standalone_mode=False,
    )
    assert "3 epochs: 6 of 4 samples (4 a batch" in capsys.readouterr().out


def test_a_step_without_a_backend_is_an_error_of_the_backends(
    project: Path, validate: Callable[..., Answer]
) -> None:
    """It ends with its first epoch, which is two batches."""
    backend = {**SUBJECT, "repeats": 1, "minimum_image_size": 0, "end_epoch": 1}
    write(project / "multidatabackend.json", [backend, TEXT_EMBEDS])
    folder = project.parent / "datasets/dreambooth-subject"
    shutil.rmtree(folder)
    folder.mkdir()
    Image.new("RGB", (1100, 1100)).save(folder / "a.png")

    status, answer = validate(project, "--set=max_train_steps=3")
    whole, _ = validate(project, "--set=max_train_steps=2")

    assert (status, whole) == (1, 0)
    (error,) = answer["errors"]
    assert (error["pointer"], error["code"]) == ("/data_backends", "conflict")
    assert error["message"] == (
        "No data backend is trained on at step 3: dreambooth-subject ends after epoch 1. Let one "
        "of them start earlier or end later."
    )
