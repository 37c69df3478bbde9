"""A survey of the data says what a run would do with it."""

from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.index import FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.survey import DataSurvey, survey_data
from trainer_core.local.data import scan
from trainer_core.progress import SilentReporter

MAX_PX = 256 * 256


def plan_of(*backends: dict[str, Any], **config: Any) -> Plan:
    named = [{"id": "cats", "caption_strategy": "textfile", **b} for b in backends or ({},)]
    return import_small({"train_batch_size": 1, **config}, backends=named).plan


def survey(plan: Plan, *folders: Path, own: tuple[Path, ...] = (), **more: Any) -> DataSurvey:
    of_id = dict(zip((each.id for each in plan.identity.backends), folders, strict=True))
    return survey_data(plan, of_id, max_px=MAX_PX, own=own, on_progress=lambda *_: None, **more)


def picture(
    path: Path,
    size: tuple[int, int],
    caption: str | None = "a cat",
    colour: str = "white",
    **save: Any,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **save)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def test_pictures_are_counted_by_bucket_or_by_the_reason_to_leave_them_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (300, 300))
    picture(tmp_path / "sub/b.jpg", (600, 300))
    picture(tmp_path / "c.png", (300, 301))
    picture(tmp_path / "small.png", (20, 20))
    picture(tmp_path / "uncaptioned.png", (300, 300), caption=None)
    picture(tmp_path / "blank.png", (300, 300), caption=" \n")
    picture(tmp_path / ".hidden.png", (300, 300))

    found = survey(plan_of({"minimum_image_size": 128}), tmp_path)

    (cats,) = found.surveys
    assert cats.pictures == cats.looked_at == 6
    assert cats.buckets == {(256, 256): 2, (320, 192): 1}
    assert not found.broken + found.problems
    assert found.warnings == [
        (
            "cats: 1 of 6 images are smaller than minimum_image_size (128 px squared) and are left "
            "out: small.png."
        ),
        "cats: 2 of 6 images are without a caption and are left out: blank.png, uncaptioned.png.",
    ]


def test_random_shapes_are_those_of_the_run(tmp_path: Path) -> None:
    for n in range(12):
        picture(tmp_path / f"{n}.png", (300 + n, 300))
    plan = plan_of(
        {"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [0.25, 1, 4]},
        max_train_steps=5,
    )

    (cats,) = survey(plan, tmp_path).surveys

    data = scan(plan, {"cats": tmp_path}, tmp_path / "notes.json", SilentReporter())
    samples = build_index(plan, data.items, TINY_CONFIG).samples
    assert cats.buckets == Counter((each.width_px, each.height_px) for each in samples)
    assert len(cats.buckets) == 3


def test_what_would_end_a_run_is_found(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name, (300, 300))
    picture(tmp_path / "masks/sub/b.png", (30, 30), caption=None)
    masked = plan_of(
        {"conditioning_data": "masks"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
    )

    (missing,) = survey(masked, tmp_path / "images", tmp_path / "masks").problems
    (empty,) = survey(plan_of({"minimum_image_size": 512}), tmp_path / "images").problems

    assert (missing.code, missing.pointer) == ("missing", "/data_backends/0/conditioning_data")
    assert (
        "2 of 3 images have no usable mask of the same name in masks: a.jpg, c.jpg"
        in missing.message
    )
    assert empty.message.startswith("No image left: cats: 3 of 3 images are smaller")


def test_files_that_cannot_be_used_are_listed_once_with_the_reason(tmp_path: Path) -> None:
    picture(tmp_path / "fine.png", (300, 300))
    picture(tmp_path / "latin.png", (300, 300), caption=None)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypisom")
    whole = (tmp_path / "fine.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-60])

    (broken,) = survey(plan_of(), tmp_path).broken

    head, cut, latin, phone = broken.message().split("\n  ")
    assert head == f"cats: 3 files in {tmp_path} cannot be used:"
    assert cut.startswith("cut.png: the picture is damaged or cut off (")
    assert latin.startswith("latin.txt: not UTF-8 text (byte 3 is 0xe9; perhaps it is Latin-1")
    assert phone.startswith("phone.jpg: the file is a video")
    assert broken.message().count("cats") == 1


def test_up_to_half_of_a_folder_may_be_broken_and_is_left_out_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "fine.png", (300, 300))
    Image.new("1", (9000, 9000)).save(tmp_path / "big.png")

    found = survey(plan_of(), tmp_path)
    (tmp_path / "empty.png").touch()
    (broken,) = survey(plan_of(), tmp_path).broken

    assert not found.broken + found.problems
    assert found.surveys[0].buckets.total() == 1
    assert found.warnings == [
        "cats: 1 of 2 images cannot be used and is left out.",
        "cats: big.png: 9000 x 9000 is more than 64000000 pixels",
    ]
    assert "big.png: 9000 x 9000 is more than 64000000 pixels" in broken.message()
    assert "empty.png: the file is empty" in broken.message()


def test_an_image_without_a_mask_or_with_a_broken_one_is_left_out(tmp_path: Path) -> None:
    for name in "abcdef":
        picture(tmp_path / f"i/{name}.png", (300, 300))
    for name in "abcd":
        picture(tmp_path / f"m/{name}.png", (30, 30), caption=None)
    (tmp_path / "m/e.png").write_bytes(b"no picture")
    masked = plan_of(
        {"conditioning_data": "masks"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
    )

    found = survey(masked, tmp_path / "i", tmp_path / "m")

    assert not found.broken + found.problems
    assert [item.path for item in found.chosen[0].items] == ["a.png", "b.png", "c.png", "d.png"]
    told = " | ".join(found.warnings)
    assert "masks: 1 of 5 images cannot be used and is left out. | masks: e.png: not a pict" in told
    assert (
        "cats: 2 of 6 images have no usable mask of the same name in masks and are left out: "
        in told
    )
    assert "e.png, f.png." in told


@pytest.mark.parametrize(
    ("kind", "black", "why"),
    [
        ("mask", "black", "the mask is black everywhere; paint in white what is to be learnt"),
        ("mask", "blue", "the red channel of the mask, which is the one that counts, is black"),
        ("segmentation", "black", "the mask is black everywhere"),
    ],
)
def test_an_image_with_a_black_mask_is_left_out(
    tmp_path: Path, kind: str, black: str, why: str
) -> None:
    for name in "abc":
        picture(tmp_path / f"i/{name}.png", (300, 300))
        colour = black if name == "b" else "#010000"
        picture(tmp_path / f"m/{name}.png", (30, 30), caption=None, colour=colour)
    masked = plan_of(
        {"conditioning_data": "masks"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": kind},
    )

    found = survey(masked, tmp_path / "i", tmp_path / "m")

    assert not found.broken + found.problems
    assert [item.path for item in found.chosen[0].items] == ["a.png", "c.png"]
    told = " | ".join(found.warnings)
    assert f"b.png: {why}" in told
    assert "cats: 1 of 3 images has no usable mask of the same name in masks and is left" in told


def test_files_that_are_not_used_are_counted_by_kind_and_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (300, 300))
    for name in ("b.CR2", "c.dng", "d.mp4", "e.zip", "f.caption", "notes.md", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "lonely.txt").write_text("a dog")
    frames = [Image.new("RGB", (300, 300), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "moving.txt").write_text("a cat")

    assert survey(plan_of(), tmp_path).warnings == [
        (
            "cats: 6 files are not read: 2 camera raw files (b.CR2, c.dng), 1 video (d.mp4), 1 "
            "archive (e.zip), 1 other caption file (f.caption), 1 other file (notes.md). Save "
            "pictures as JPEG or PNG; save frames of videos as JPEG or PNG; unpack archives; "
            "captions are read from .txt files beside the pictures."
        ),
        "cats: 1 caption file is not used, because no image has the same name: lonely.txt.",
        "cats: 1 file has several frames or pages, of which the first is used: moving.gif.",
    ]


def test_caption_files_that_the_strategy_does_not_read_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (300, 300))

    (warning,) = survey(plan_of({"caption_strategy": "filename"}), tmp_path).warnings

    assert warning == (
        "cats: 1 caption file is not read, because caption_strategy is filename: a.txt. Set it to "
        "textfile to train on them."
    )


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "A.JPG", (300, 300), caption=None)
    (tmp_path / "A.TXT").write_text("a cat")

    found = survey(plan_of(), tmp_path)

    assert not found.warnings
    assert found.chosen[0].items[0].captions == ("a cat",)


def test_of_very_many_pictures_evenly_spread_ones_are_read(tmp_path: Path) -> None:
    for n in range(20):
        picture(tmp_path / "i" / f"{n:02}.png", (300, 300) if n % 2 else (600, 300))
        picture(tmp_path / "m" / f"{n:02}.png", (30, 30) if n % 2 else (60, 30), caption=None)
    masked = plan_of(
        {"conditioning_data": "masks"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
    )

    found = survey(masked, tmp_path / "i", tmp_path / "m", max_looked_at=7)

    (cats,) = found.surveys
    assert (cats.pictures, cats.looked_at, sum(cats.buckets.values())) == (20, 7, 7)
    assert len(cats.buckets) == 2
    assert not found.problems
    assert found.warnings == [
        (
            "cats: 7 of 20 pictures were looked at, evenly spread; its buckets count these. A run "
            "reads all of them before it trains."
        ),
        (
            "cats: 5 images are copies of others, byte for byte: 00.png = 02.png = 08.png; 05.png "
            "= 11.png = 17.png. All of them are used."
        ),
    ]


def test_pictures_that_a_run_wrote_are_no_data(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (300, 300))
    picture(tmp_path / "out/result/samples/0.png", (300, 300))

    before = survey(plan_of(), tmp_path)
    found = survey(plan_of(), tmp_path, own=(tmp_path / "out", tmp_path / "out/cache"))

    assert before.surveys[0].pictures == 2
    assert found.surveys[0].pictures == 1
    assert found.warnings == ["cats: The output of runs is left out: out."]


def test_the_survey_counts_the_images_that_a_run_would_choose(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / f"{number}.png", (300 + 40 * number, 300))
    plan = plan_of({"max_num_samples": 2})

    (cats,) = survey(plan, tmp_path).surveys

    items = [
        FileItem(
            backend="cats",
            path=f"{number}.png",
            sha256=sha256((tmp_path / f"{number}.png").read_bytes()).hexdigest(),
            width_px=300 + 40 * number,
            height_px=300,
            captions=("a cat",),
        )
        for number in range(6)
    ]
    samples = build_index(plan, items, TINY_CONFIG).samples
    run = Counter((sample.width_px, sample.height_px) for sample in samples)
    assert run.total() == 2
    assert cats.buckets == run


def test_a_mask_that_is_black_within_the_crop_is_named(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"i/{name}.png", (600, 300))
        picture(tmp_path / f"m/{name}.png", (60, 30), caption=None, colour="white")
    with Image.open(tmp_path / "m/b.png") as mask:
        mask.paste("black", (10, 0, 60, 30))  # what is left of white is cut away
        mask.save(tmp_path / "m/b.png")
    masked = plan_of(
        {"conditioning_data": "masks", "crop": True, "crop_style": "center"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
    )

    found = survey(masked, tmp_path / "i", tmp_path / "m")

    assert not found.broken + found.problems
    assert [item.path for item in found.chosen[0].items] == ["a.png", "c.png"]
    told = " | ".join(found.warnings)
    assert "cats: 1 of 3 images cannot be used and is left out. | cats: b.png: the mask is " in told
    assert found.report is not None
    (left_out,) = found.report.backends[0].left_out
    assert (left_out.reason, left_out.first[0].path) == ("black_mask", "b.png")
