"""The report names each fault and oddity of a folder, and counts what crops and batches cost."""

import json
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from tests.support.planted_pictures import noise, plant_odd, plant_unusable
from tests.unit.config_examples import import_small
from trainer_core.config.plan import Plan
from trainer_core.data.report.examine import examine_image, read_header
from trainer_core.data.report.likeness import (
    MAX_DIFFERENT_BITS,
    groups_of_similar,
    likeness_of,
)
from trainer_core.data.report.model import Alike, BackendReport, DataReport
from trainer_core.data.survey import survey_data

MAX_PX = 256 * 256
MASKED = (
    {"id": "cats", "caption_strategy": "textfile", "conditioning_data": "masks"},
    {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
)


def plan_of(*backends: dict[str, Any], **config: Any) -> Plan:
    named = [{"id": "cats", "caption_strategy": "textfile", **b} for b in backends or ({},)]
    return import_small({"train_batch_size": 1, **config}, backends=named).plan


def report(plan: Plan, *folders: Path, **more: Any) -> DataReport:
    of_id = dict(zip((each.id for each in plan.identity.backends), folders, strict=True))
    found = survey_data(plan, of_id, max_px=MAX_PX, on_progress=lambda *_: None, **more).report
    assert found is not None
    assert DataReport.model_validate_json(found.model_dump_json()) == found
    return found


def picture(path: Path, size: tuple[int, int], seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path)
    path.with_suffix(".txt").write_text("a cat")


def left_out(backend: BackendReport) -> dict[str, list[str]]:
    return {each.reason: [file.path for file in each.first] for each in backend.left_out}


def having(backend: BackendReport) -> dict[str, list[str]]:
    return {each.trait: [file.path for file in each.first] for each in backend.having}


def named(alike: Alike) -> list[list[str]]:
    return [[file.path for file in group] for group in alike.first]


def test_each_planted_fault_and_oddity_is_found_and_named(tmp_path: Path) -> None:
    plant_unusable(tmp_path)
    plant_odd(tmp_path)

    found = report(plan_of({"minimum_image_size": 64}), tmp_path)

    (cats,) = found.backends
    assert left_out(cats) == {
        "decode_error": ["cut.jpg", "empty.png", "page.jpg"],
        "too_many_pixels": ["bomb.png"],
        "bad_caption": ["latin.jpg"],
        "too_small": ["tiny.png"],
        "no_caption": ["silent.png"],
    }
    assert having(cats) == {
        "cmyk": ["cmyk.jpg"],
        "colour_profile": ["wide.png"],
        "more_than_8_bits": ["deep.png"],
        "several_frames": ["moving.webp"],
        "transparent": ["clear.png"],
        "turned": ["turned.jpg"],
    }
    notes = {file.path: file.note for each in (*cats.left_out, *cats.having) for file in each.first}
    assert notes["wide.png"] == "Wide test colours"
    assert notes["tiny.png"] == "8 x 8 px"
    assert str(notes["page.jpg"]).startswith("the file is a web page")
    assert (cats.images, cats.looked_at, cats.accepted) == (18, 18, 11)
    assert named(found.equal) == [["copy.png", "usual.png"]]
    assert named(found.similar) == [["again-smaller.jpg", "again.jpg"]]


def test_a_list_is_bounded_and_its_number_is_not(tmp_path: Path) -> None:
    for n in range(30):
        picture(tmp_path / f"{n:02}.png", (9, 9), seed=n)

    (cats,) = report(plan_of({"minimum_image_size": 64}), tmp_path).backends

    (small,) = cats.left_out
    assert (small.count, len(small.first)) == (30, 20)


def test_crops_are_measured_against_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "fits.png", (256, 256), seed=1)
    picture(tmp_path / "wide.png", (320, 256), seed=2)
    picture(tmp_path / "half.png", (128, 128), seed=3)

    (cats,) = report(
        plan_of({"crop": True, "crop_aspect": "square", "crop_style": "center"}), tmp_path
    ).backends

    (bucket,) = cats.buckets
    assert (bucket.width_px, bucket.height_px, bucket.images) == (256, 256, 3)
    assert bucket.crop_loss_worst == pytest.approx(1 - 256 / 320)
    assert bucket.crop_loss_mean == pytest.approx((1 - 256 / 320) / 3)
    assert bucket.crop_loss_worst_file == "wide.png"
    assert (bucket.upscaled, bucket.upscale_worst_file) == (1, "half.png")
    assert bucket.upscale_worst == bucket.upscale_mean == pytest.approx(2.0)


def test_crops_are_counted_beside_their_images(tmp_path: Path) -> None:
    for n, size in enumerate([(300, 300), (290, 300), (256, 256), (400, 128)]):
        picture(tmp_path / f"{n}.png", size, seed=n)
    options = {"crop": True, "crop_aspect": "preserve", "crops_per_image": 3}

    found = report(plan_of(options), tmp_path)

    (cats,) = found.backends
    counted = {(each.width_px, each.height_px): (each.images, each.crops) for each in cats.buckets}
    # What is as large as its bucket has one crop; 400 by 128 px are scaled to 448 by 143.
    assert counted == {(256, 256): (3, 7), (448, 128): (1, 3)}
    assert (cats.accepted, found.samples_per_epoch) == (4, 4)


def test_the_repeats_that_fill_a_batch_are_told(tmp_path: Path) -> None:
    for n in range(3):
        picture(tmp_path / "a" / f"{n}.png", (256, 256), seed=n)
    picture(tmp_path / "a" / "long.png", (512, 128), seed=9)
    picture(tmp_path / "b" / "also.png", (256, 256), seed=10)
    plan = plan_of({"repeats": 1}, {"id": "dogs"}, train_batch_size=8)

    found = report(plan, tmp_path / "a", tmp_path / "b")

    cats, dogs = found.backends
    needed = {(each.width_px, each.height_px): each.repeats_to_fill for each in cats.buckets}
    assert needed == {(256, 256): 2, (512, 128): 7}  # 3 × 3 ≥ 8 > 3 × 2, and 1 × 8 ≥ 8
    assert (cats.repeats, cats.repeats_to_fill) == (1, 7)
    assert dogs.repeats_to_fill == 7  # no batch has pictures of both
    assert found.samples_per_epoch == 3 * 2 + 2 + 1
    assert found.steps_per_epoch == 3  # each size of each backend fills one batch


def test_images_that_are_not_chosen_are_told_as_such(tmp_path: Path) -> None:
    for n in range(5):
        picture(tmp_path / f"{n}.png", (256, 256), seed=n)

    (cats,) = report(plan_of({"max_num_samples": 2}), tmp_path).backends

    assert cats.accepted == 2
    assert [each.count for each in cats.left_out] == [3]
    assert left_out(cats).keys() == {"not_chosen"}


def test_an_image_without_its_mask_is_one_of_those_left_out(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / "i" / f"{name}.png", (256, 256), seed=ord(name))
    picture(tmp_path / "m" / "a.png", (64, 64))

    cats, masks = report(plan_of(*MASKED), tmp_path / "i", tmp_path / "m").backends

    assert left_out(cats) == {"no_mask": ["b.png"]}
    assert (masks.role, masks.accepted, masks.buckets) == ("mask", 1, ())


def test_an_image_that_is_not_chosen_does_not_count_as_one_without_a_mask(tmp_path: Path) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    for n in range(8):
        picture(pictures / f"{n}.png", (64, 64), seed=n)
        if n < 5:
            picture(masks / f"{n}.png", (64, 64), seed=n)
    images, of_images = MASKED

    cats, _ = report(plan_of(images | {"max_num_samples": 4}, of_images), pictures, masks).backends

    counts = {each.reason: each.count for each in cats.left_out}
    assert counts["not_chosen"] == 4
    assert cats.accepted == 4 - counts.get("no_mask", 0)


def test_a_folder_that_two_backends_read_has_no_copies(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png", (256, 256))
    picture(tmp_path / "b" / "y.png", (256, 256))
    both = plan_of({}, {"id": "small", "resolution": 128})

    same = report(both, tmp_path / "a", tmp_path / "a")
    other = report(both, tmp_path / "a", tmp_path / "b")

    assert (same.equal.groups, same.similar.groups) == (0, 0)
    assert named(other.equal) == [["x.png", "y.png"]]
    assert [file.backend for file in other.equal.first[0]] == ["cats", "small"]


def test_a_sample_of_the_pictures_gives_no_number_of_steps(tmp_path: Path) -> None:
    for n in range(5):
        picture(tmp_path / f"{n}.png", (256, 256), seed=n)

    found = report(plan_of(), tmp_path, max_looked_at=3)

    assert (found.backends[0].images, found.backends[0].looked_at) == (5, 3)
    assert found.steps_per_epoch is None


def test_headers_tell_sizes_and_not_damage(tmp_path: Path) -> None:
    plant_odd(tmp_path)
    plant_unusable(tmp_path)
    picture(tmp_path / "long.jpg", (400, 200))
    (tmp_path / "long.jpg").write_bytes((tmp_path / "long.jpg").read_bytes()[:-20])
    plan = plan_of({"minimum_image_size": 64})

    (closely,) = report(plan, tmp_path).backends
    found = report(plan, tmp_path, depth="headers")

    (cats,) = found.backends
    assert found.depth == "headers"
    assert left_out(cats) == {
        **left_out(closely),
        "decode_error": ["empty.png", "page.jpg"],  # cut.jpg and long.jpg have their headers
    }
    kept = {"cmyk", "colour_profile", "more_than_8_bits", "turned"}
    assert having(cats) == {each: having(closely)[each] for each in kept}
    assert {(each.width_px, each.height_px) for each in cats.buckets} == {(256, 256), (320, 192)}
    assert (found.equal.groups, found.similar.groups) == (0, 0)


def test_random_crops_need_no_pixels(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / f"{n}.png", (500, 300), seed=n)
    random = {"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [0.5, 1.0, 2.0]}

    found = report(plan_of({**random, "crop_style": "random"}), tmp_path, depth="headers")

    assert sum(each.images for each in found.backends[0].buckets) == 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
def test_a_header_gives_the_size_as_displayed(tmp_path: Path, form: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    if form == "HEIF":
        heif = pillow_heif.from_pillow(noise(1, (96, 64)))
        heif.save(tmp_path / "a.heic", exif=turned.tobytes())
    else:
        noise(1, (96, 64)).save(tmp_path / "a.heic", form, exif=turned)

    for look in (read_header, examine_image):
        found = look(tmp_path / "a.heic", name="a")
        assert (found.width_px, found.height_px, "turned" in found.traits) == (64, 96, True)


def test_likenesses_within_the_bound_are_one_group_and_others_are_not() -> None:
    base = 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF
    near = base ^ sum(1 << (16 * bit) for bit in range(MAX_DIFFERENT_BITS))
    far = base ^ sum(1 << (14 * bit) for bit in range(MAX_DIFFERENT_BITS + 1))

    assert groups_of_similar([base, near]) == [[0, 1]]
    assert groups_of_similar([base, far]) == []
    assert groups_of_similar([~base & (1 << 128) - 1, base, base]) == [[1, 2]]


def test_a_picture_is_like_its_copy_that_exif_turns(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # shown by turning it to the right
    noise(3, (200, 200)).save(tmp_path / "a.png")
    noise(3, (200, 200)).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.jpg", exif=turned)

    found = report(plan_of({"caption_strategy": "filename"}), tmp_path)

    assert named(found.similar) == [["a.png", "b.jpg"]]


def test_plain_pictures_are_alike_to_none() -> None:
    assert likeness_of(Image.new("RGB", (300, 300), "red")) is None
    assert likeness_of(noise(1, (300, 200))) is not None


def test_the_report_is_bounded_json(tmp_path: Path) -> None:
    plant_odd(tmp_path)

    found = json.loads(report(plan_of(), tmp_path).model_dump_json())

    assert found["version"] == 1
    assert {each["trait"] for each in found["backends"][0]["having"]} >= {"turned", "cmyk"}
