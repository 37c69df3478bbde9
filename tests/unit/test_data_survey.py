"""A survey of a folder reads the headers of its pictures and does not decode them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.config_examples import import_small
from trainer_core.config.plan import Backend
from trainer_core.data.images import inspect_header, inspect_image
from trainer_core.data.survey import Survey, survey_pictures
from trainer_core.errors import BadImageError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos" / "train"


def backend(**changes: Any) -> Backend:
    options = {"id": "cats", "caption_strategy": "textfile", "repeats": 2, **changes}
    return import_small(backends=[options]).plan.identity.backends[0]


def survey(folder: Path, of: Backend | None = None, **more: Any) -> Survey:
    return survey_pictures(
        folder, of or backend(), max_px=256 * 256, on_progress=lambda done, total: None, **more
    )


def picture(path: Path, size: tuple[int, int], caption: str | None = "a cat", **save: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **save)
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
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.md").write_text("no picture")

    found = survey(tmp_path, backend(minimum_image_size=128))

    assert found.pictures == found.looked_at == 7
    assert found.buckets == {(256, 256): 2, (320, 192): 1}
    assert (found.too_small.count, found.too_small.first) == (1, ["small.png"])
    assert sorted(found.without_caption.first) == ["blank.png", "uncaptioned.png"]
    assert "broken.png" in found.unreadable.first[0]


def test_masks_are_paired_by_stem(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name, (300, 300))
    for name in ("a.png", "sub/b.png"):
        picture(tmp_path / "masks" / name, (30, 30), caption=None)

    found = survey(tmp_path / "images", masks=tmp_path / "masks")

    assert found.without_mask.first == ["c.jpg"]


def test_of_very_many_pictures_evenly_spread_ones_are_read(tmp_path: Path) -> None:
    for n in range(20):
        picture(tmp_path / f"{n:02}.png", (300, 300) if n % 2 else (600, 300))

    found = survey(tmp_path, max_looked_at=7)

    assert (found.pictures, found.looked_at, sum(found.buckets.values())) == (20, 7, 7)
    assert len(found.buckets) == 2


def test_a_header_has_the_size_that_decoding_finds(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp"):
        picture(tmp_path / f"turned.{suffix}", (30, 20), exif=exif)
    pictures = [*PHOTOS.glob("*.jpg"), *tmp_path.glob("turned.*")]
    pictures = [path for path in pictures if path.suffix != ".txt"]

    assert len(pictures) > 3
    for path in pictures:
        assert inspect_header(path, name="x") == inspect_image(path, name="x")
    assert inspect_header(tmp_path / "turned.png", name="x").width_px == 20


def test_a_header_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "big.png")

    with pytest.raises(BadImageError, match="9000 x 9000 is more than"):
        inspect_header(tmp_path / "big.png", name="big.png")
