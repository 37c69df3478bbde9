"""Where each option cuts, on the pixels that the model gets, against other formulas."""

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.config_examples import TINY_CONFIG, import_small
from tests.unit.crop_examples import (
    NAME,
    RATIOS,
    TINY_PX,
    TRUE_PX,
    backend_of,
    coordinates,
    drawn,
    item,
)
from trainer_core.config.plan import Backend
from trainer_core.data.buckets import geometry_of
from trainer_core.data.images import load_mask, load_rgb
from trainer_core.data.index import DataIndex, FileItem, Picture
from trainer_core.data.indexing import build_index

OTHER = hashlib.sha256(b"other").hexdigest()


def first_pixel(path: Path, sha256: str, backend: Backend) -> tuple[tuple[int, int], list[int]]:
    """Size of what the model gets, and where in the picture its first pixel was."""
    with Image.open(path) as image:
        size = image.size
    got = np.asarray(load_rgb(path, geometry_of(*size, backend, TINY_PX, sha256)))
    x, y = (int(level) for level in got[0, 0, :2])
    with Image.open(path) as image:
        part = np.asarray(image)[y : y + got.shape[0], x : x + got.shape[1]]
    assert np.array_equal(got, part)  # nothing is scaled
    return (got.shape[1], got.shape[0]), [x, y]


@pytest.mark.parametrize(
    ("style", "place"),
    [
        ({"crop_style": "center"}, [61, 43]),
        ({"crop_style": "centre"}, [61, 43]),
        ({"crop_style": "corner"}, [0, 0]),
        ({"crop_style": "random"}, None),
        ({}, None),
    ],
)
def test_a_crop_keeps_the_pixels_where_its_style_says(
    tmp_path: Path, style: dict[str, str], place: list[int] | None
) -> None:
    sha256 = coordinates(tmp_path / "a.png", 250, 214)
    backend = backend_of(crop=True, resolution=128, **style)
    if place is None:
        across = drawn("x", sha256, "250x214 128x128") % (250 - 128 + 1)
        down = drawn("y", sha256, "250x214 128x128") % (214 - 128 + 1)
        place = [across, down]

    assert first_pixel(tmp_path / "a.png", sha256, backend) == ((128, 128), place)


def test_a_random_crop_goes_with_the_content_and_the_sizes_alone(tmp_path: Path) -> None:
    backend = backend_of(crop=True, resolution=128)
    of_another_seed = backend_of({"seed": 7}, crop=True, resolution=128)
    geometry = geometry_of(250, 214, backend, TINY_PX, OTHER)
    smaller = geometry_of(250, 214, backend_of(crop=True, resolution=64), TINY_PX, OTHER)

    assert geometry_of(250, 214, of_another_seed, TINY_PX, OTHER) == geometry
    assert (smaller.crop_x, smaller.crop_y) != (geometry.crop_x, geometry.crop_y)
    with pytest.raises(ValueError, match="SHA-256 is needed"):
        geometry_of(250, 214, backend, TINY_PX, "")


def test_random_crops_lie_everywhere_equally_often() -> None:
    backend = backend_of(crop=True, resolution=64)
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(8000)]

    found = [geometry_of(71, 67, backend, TINY_PX, digest) for digest in digests]

    places = Counter((each.crop_x, each.crop_y) for each in found)
    assert len(places) == 8 * 4
    expected = len(digests) / 32
    chi_square = sum((times - expected) ** 2 / expected for times in places.values())
    assert chi_square < 31 + 5 * math.sqrt(2 * 31)


def test_without_crop_images_are_trimmed_at_the_middle(tmp_path: Path) -> None:
    sha256 = coordinates(tmp_path / "a.png", 256, 206)
    backend = backend_of(crop=False, resolution=236, crop_style="corner")

    geometry = geometry_of(256, 206, backend, TINY_PX, sha256)

    assert (geometry.width_px, geometry.height_px) == (256, 192)
    assert first_pixel(tmp_path / "a.png", sha256, backend) == ((256, 192), [0, 7])


@pytest.mark.parametrize(
    ("config", "options", "size", "scaled"),
    [
        # As in SimpleTuner's guide: above 1536 squared to about 1280 squared.
        ({}, {"maximum_image_size": 1536, "target_downsample_size": 1280}, (4000, 3000), 1280**2),
        ({}, {"maximum_image_size": 1536, "target_downsample_size": 1280}, (1600, 1400), None),
        ({"maximum_image_size": 1536, "target_downsample_size": 1280}, {}, (4000, 3000), 1280**2),
        ({}, {"maximum_image_size": 4, "target_downsample_size": "2.25", "resolution": 1.05,
              "resolution_type": "area"}, (4000, 3000), 2.25e6),
        ({}, {"maximum_image_size": 1536, "target_downsample_size": 1280,
              "resolution_type": "pixel"}, (4000, 3000), 1280 * 1280 * 4 / 3),
        ({}, {"maximum_image_size": 1536, "target_downsample_size": 1280,
              "resolution_type": "pixel"}, (4000, 1536), None),
        ({"maximum_image_size": 4, "target_downsample_size": 2.25, "resolution_type": "area"},
         {"resolution_type": "pixel", "resolution": 1024}, (4000, 3000), 2000 * 1500),
    ],
)  # fmt: skip
@pytest.mark.parametrize("aspect", ["square", "preserve", "closest"])
def test_large_images_are_scaled_down_before_the_crop(
    config: dict[str, Any],
    options: dict[str, Any],
    size: tuple[int, int],
    scaled: float | None,
    aspect: str,
) -> None:
    true = {"pretrained_model_name_or_path": "HiDream-ai/HiDream-I1-Full", "resolution": 1024}
    if config.get("resolution_type") == "area":
        true["resolution"] = 1.05
    cut = {"crop": True, "crop_aspect": aspect, "crop_aspect_buckets": RATIOS}

    g = geometry_of(*size, backend_of(true | config, **cut, **options), TRUE_PX, OTHER)

    if scaled is None:
        assert (g.resize_w, g.resize_h) == size
    else:
        assert g.resize_w * g.resize_h == pytest.approx(scaled, rel=2e-3)
        assert g.resize_w / g.resize_h == pytest.approx(size[0] / size[1], rel=2e-3)


def entries(index: DataIndex) -> list[tuple[Picture, Picture]]:
    """Image and mask of each sample."""
    found = []
    for sample in index.samples:
        assert sample.mask is not None
        image, mask = (index.entries[n].content for n in (sample.latents, sample.mask))
        assert isinstance(image, Picture)
        assert isinstance(mask, Picture)
        found.append((image, mask))
    return found


@pytest.mark.parametrize("style", ["random", "corner"])
def test_a_mask_is_cut_where_its_image_is(tmp_path: Path, style: str) -> None:
    image = NAME | {
        "crop": True,
        "crop_style": style,
        "crop_aspect": "random",
        "crop_aspect_buckets": [0.5, 1, 2],
        "resolution": 64,
        "conditioning_data": "m",
    }
    masks = {"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask"}
    plan = import_small(backends=[image, masks]).plan
    sizes = {f"{n}.png": (150 + 10 * n, 250 - 10 * n) for n in range(8)}
    items = [item(name, size, to) for name, size in sizes.items() for to in "am"]

    for picture, mask in entries(build_index(plan, items, TINY_CONFIG)):
        assert mask.geometry == picture.geometry
        coordinates(tmp_path / picture.path, *sizes[picture.path])
        seen = np.asarray(load_rgb(tmp_path / picture.path, picture.geometry))[:, :, 0]
        weights = load_mask(tmp_path / picture.path, mask.geometry, "mask", 8, name="m")
        height, width = seen.shape
        cells = seen.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))
        assert np.allclose(np.asarray(weights), cells, atol=1)


def test_a_picture_keeps_its_crop_under_another_name_and_beside_others(tmp_path: Path) -> None:
    image = NAME | {"crop": True, "resolution": 64}
    plan = import_small(backends=[image]).plan
    one = item("1.png", (200, 300))
    renamed = one.model_copy(update={"path": "z/9.png"})
    others = [item(f"{n}.png", (200, 300)) for n in range(2, 40)]

    def crop_of(*items: FileItem) -> Any:
        index = build_index(plan, items, TINY_CONFIG)
        contents = [entry.content for entry in index.entries]
        return [
            content.geometry
            for content in contents
            if isinstance(content, Picture) and content.sha256 == one.sha256
        ]

    assert crop_of(one) == crop_of(renamed, *others) == crop_of(*others, one)
