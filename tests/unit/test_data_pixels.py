"""The pixels of pictures of every kind, against numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.crop_examples import TINY_PX, backend_of
from trainer_core.data.buckets import Geometry, geometry_of
from trainer_core.data.images import inspect_image, load_rgb

Levels = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)
W, H = 12, 8


def noise(*channels: int, high: int = 256, dtype: str = "u1") -> Levels:
    return RNG.integers(0, high, (H, W, *channels)).astype(dtype)


def pixels(path: Path) -> Levels:
    """What the model gets of a picture that is not scaled."""
    facts = inspect_image(path, name="x")
    width, height = facts.width_px, facts.height_px
    whole = Geometry(
        resize_w=width, resize_h=height, crop_x=0, crop_y=0, width_px=width, height_px=height
    )
    return np.asarray(load_rgb(path, whole)).astype(int)


def grey(levels: Levels) -> Levels:
    return np.repeat(levels[..., None], 3, axis=2).astype(int)


def over_white(colours: Levels, alpha: Levels) -> Levels:
    share = alpha[..., None] / 255
    return np.asarray(colours * share + 255 * (1 - share))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_exif_turns_or_mirrors(tmp_path: Path, orientation: int) -> None:
    stored = noise(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)

    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert np.array_equal(pixels(tmp_path / "a.png"), shown)


def test_greys_of_16_bits_keep_their_upper_8(tmp_path: Path) -> None:
    levels = noise(high=1 << 16, dtype="u2")
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)

        assert np.array_equal(pixels(tmp_path / name), grey(levels >> 8))


def test_grey_with_alpha_and_colours_with_alpha_lie_on_white(tmp_path: Path) -> None:
    for channels in (2, 4):
        levels = noise(channels)
        Image.fromarray(levels, "LA" if channels == 2 else "RGBA").save(tmp_path / "a.png")
        colours = grey(levels[..., 0]) if channels == 2 else levels[..., :3]

        assert np.abs(pixels(tmp_path / "a.png") - over_white(colours, levels[..., -1])).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path, form: str) -> None:
    places, palette = noise(high=4), RNG.integers(0, 256, (4, 3)).astype("u1")
    image = Image.fromarray(places, "P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a", form, transparency=2)

    palette[2] = 255
    assert np.array_equal(pixels(tmp_path / "a"), palette[places])


def test_four_colours_of_a_print_become_three(tmp_path: Path) -> None:
    levels = noise(4)
    Image.fromarray(levels, "CMYK").save(tmp_path / "a.tif")

    kept = 255 - levels.astype(int)
    expected = kept[..., :3] * kept[..., 3:] / 255
    assert np.abs(pixels(tmp_path / "a.tif") - expected).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_whole(tmp_path: Path, form: str) -> None:
    first, second = (grey(noise(high=2) * 255).astype("u1") for _ in range(2))
    more = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(first).save(
        tmp_path / "a", form, save_all=True, append_images=[Image.fromarray(second)], **more
    )

    assert np.array_equal(pixels(tmp_path / "a"), first)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (2, 999), (999, 3), (65, 63)])
@pytest.mark.parametrize("options", [{}, {"crop": True}, {"crop": True, "crop_aspect": "preserve"}])
def test_pictures_of_odd_sizes_fill_their_buckets(
    tmp_path: Path, size: tuple[int, int], options: dict[str, Any]
) -> None:
    width, height = size
    levels = RNG.integers(100, 156, (height, width, 3)).astype("u1")  # no overshoot is cut off
    Image.fromarray(levels).save(tmp_path / "a.png")
    geometry = geometry_of(*size, backend_of(resolution=64, **options), TINY_PX, "c" * 64)

    got = np.asarray(load_rgb(tmp_path / "a.png", geometry)).astype(int)

    assert got.shape == (geometry.height_px, geometry.width_px, 3)
    assert geometry.width_px % 64 == geometry.height_px % 64 == 0
    assert geometry.width_px * geometry.height_px <= TINY_PX
    scaled = Image.fromarray(levels).resize(
        (geometry.resize_w, geometry.resize_h), Image.Resampling.LANCZOS
    )
    box = geometry.crop_x, geometry.crop_y
    part = scaled.crop((*box, box[0] + geometry.width_px, box[1] + geometry.height_px))
    assert np.abs(got - np.asarray(part)).max() <= 2
