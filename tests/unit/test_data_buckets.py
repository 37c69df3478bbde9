"""The size that each image gets, and which images get none, against other formulas."""

import functools
import hashlib
import math
from collections import Counter
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from tests.unit.crop_examples import (
    NAME,
    RATIOS,
    TINY_PX,
    TRUE_PX,
    backend_of,
    item,
    true_backend,
)
from trainer_core.config.plan import Backend
from trainer_core.data.buckets import bucket_size, geometry_of, unfit
from trainer_core.data.indexing import build_index


def sides(aspect: float, edge_px: float, unit: str, most_px: int = TRUE_PX) -> tuple[float, float]:
    """Width and height that SimpleTuner's guide asks for, at most ``most_px`` in area."""
    if unit == "pixel":
        width, height = max(1.0, aspect) * edge_px, max(1.0, 1 / aspect) * edge_px
    else:
        whole_edge = round(math.sqrt(edge_px * 1e6)) if unit == "area" else edge_px
        height = math.sqrt(whole_edge**2 / aspect)
        width = aspect * height
    lowered = min(1.0, math.sqrt(most_px / (width * height)))
    return width * lowered, height * lowered


@functools.cache
def choosing(unit: str, resolution: float, aspect: str | None) -> Backend:
    cut = {"crop": True, "crop_aspect": aspect, "crop_aspect_buckets": RATIOS} if aspect else {}
    return true_backend(resolution=resolution, resolution_type=unit, **cut)


PICTURE_SIZES: Final = st.tuples(st.integers(40, 4000), st.integers(40, 4000))
DIGESTS: Final = st.text("0123456789abcdef", min_size=64, max_size=64)
RESOLUTIONS: Final = st.sampled_from(
    [("pixel", 320), ("pixel", 700), ("area", 0.3), ("area", 0.8), ("pixel_area", 700)]
)


@settings(deadline=None, max_examples=200)
@given(
    PICTURE_SIZES,
    RESOLUTIONS,
    st.sampled_from([None, "square", "preserve", "closest", "random"]),
    DIGESTS,
)
def test_buckets_have_the_size_of_the_resolution_in_its_unit(
    picture: tuple[int, int], of_run: tuple[str, float], aspect: str | None, sha256: str
) -> None:
    (width, height), (unit, resolution) = picture, of_run
    backend = choosing(unit, resolution, aspect)

    size = bucket_size(width, height, backend, TRUE_PX, sha256)

    own = round(width / height, 2)
    allowed = {
        None: [own],
        "square": [1.0],
        "preserve": [own],
        "closest": [RATIOS[int(np.abs(np.array(RATIOS) - own).argmin())]],
        "random": RATIOS,
    }[aspect]
    fits = []
    for ratio in allowed:
        wanted = sides(ratio, resolution, unit)
        nearest = tuple(64 * max(1, round(side / 64)) for side in wanted)
        if math.prod(nearest) <= TRUE_PX:
            fits.append(size == nearest)
        else:
            fits.append(
                math.prod(size) <= TRUE_PX
                and all(abs(a - b) < 64 for a, b in zip(size, wanted, strict=True))
            )
    assert any(fits), (size, allowed)


@pytest.mark.parametrize(
    ("unit", "resolution", "size", "bucket"),
    [
        ("pixel", 512, (3000, 2000), (768, 512)),
        ("pixel", 512, (2000, 3000), (512, 768)),
        ("pixel", 640, (3000, 2400), (768, 640)),  # 800 lies between 768 and 832: to the even one
        ("pixel", 1024, (3000, 2000), (1216, 832)),
        ("pixel", 1024, (500, 500), (1024, 1024)),
        ("pixel_area", 512, (3000, 2000), (640, 448)),
        ("area", 0.25, (3000, 2000), (640, 384)),
        ("area", "1.05", (3000, 2000), (1216, 832)),
    ],
)
def test_sizes_of_whole_images(
    unit: str, resolution: Any, size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    own = true_backend(resolution=resolution, resolution_type=unit)
    config = {
        "pretrained_model_name_or_path": "HiDream-ai/HiDream-I1-Full",
        "resolution": resolution,
        "resolution_type": unit,
    }

    assert bucket_size(*size, own, TRUE_PX, "") == bucket
    assert bucket_size(*size, backend_of(config), TRUE_PX, "") == bucket


def test_a_random_shape_goes_with_the_content_and_its_weight() -> None:
    cut: dict[str, Any] = {"crop": True, "crop_aspect": "random", "resolution": 64}
    alike = backend_of(**cut, crop_aspect_buckets=[0.25, 1, 4])
    weighed = backend_of(
        **cut,
        crop_aspect_buckets=[
            {"aspect": 0.25, "weight": 0.1},
            {"aspect": "1.0", "weight": "0.9"},
            {"aspect": 4, "weight": 0},
        ],
    )
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(3000)]

    def shares(backend: Backend) -> dict[tuple[int, int], float]:
        found = Counter(bucket_size(300, 200, backend, TINY_PX, digest) for digest in digests)
        return {bucket: times / len(digests) for bucket, times in found.items()}

    sigma = math.sqrt(1 / 3 * 2 / 3 / len(digests))
    assert shares(alike) == {
        bucket: pytest.approx(1 / 3, abs=5 * sigma) for bucket in ((64, 128), (64, 64), (128, 64))
    }
    assert shares(weighed) == {
        (64, 128): pytest.approx(0.1, abs=5 * sigma),
        (64, 64): pytest.approx(0.9, abs=5 * sigma),
    }
    assert shares(alike) == shares(backend_of({"seed": 9}, **cut, crop_aspect_buckets="0.25,1,4"))


SIZES = {
    "square": (512, 512),
    "tall": (300, 900),
    "wide": (1000, 200),
    "small": (100, 100),
    "2by3": (500, 750),
}


def left_out(config: dict[str, Any], **options: Any) -> tuple[set[str], list[str]]:
    plan = import_small(config, backends=[NAME | options]).plan
    index = build_index(plan, [item(name, size) for name, size in SIZES.items()], TINY_CONFIG)
    names = SIZES.keys() - {sample.path for sample in index.samples}
    return names, [text for text in index.warnings if "left out" in text]


@pytest.mark.parametrize(
    ("config", "options", "names"),
    [
        ({}, {"minimum_image_size": 512}, {"wide", "small"}),
        ({}, {"minimum_image_size": 512, "resolution_type": "pixel"},
         {"tall", "wide", "small", "2by3"}),
        ({"resolution": 0.06, "resolution_type": "area"}, {"minimum_image_size": 0.262144},
         {"wide", "small"}),
        ({"minimum_image_size": 301, "resolution_type": "pixel"}, {"resolution": 128},
         {"tall", "wide", "small"}),
        # The run's number is in the run's unit; what it measures, the backend says.
        ({"minimum_image_size": 301, "resolution_type": "pixel"},
         {"resolution": 128, "resolution_type": "pixel_area"}, {"small"}),
        ({"minimum_image_size": 301}, {"resolution_type": "pixel"}, {"tall", "wide", "small"}),
        ({"minimum_image_size": 0.25, "resolution": 0.06, "resolution_type": "area"},
         {"resolution_type": "pixel"}, {"tall", "wide", "small"}),
        ({}, {"minimum_aspect_ratio": 0.5}, {"tall"}),
        ({}, {"maximum_aspect_ratio": "1.0"}, {"wide"}),
        ({}, {"minimum_aspect_ratio": 0.67}, {"tall"}),  # 500 / 750 is 0.67 in two decimals
        ({"aspect_bucket_rounding": 4}, {"minimum_aspect_ratio": 0.67}, {"tall", "2by3"}),
        ({}, {"minimum_aspect_ratio": 0.9, "maximum_aspect_ratio": 1.1},
         {"tall", "2by3", "wide"}),
        ({}, {"minimum_aspect_ratio": 0, "maximum_aspect_ratio": None}, set()),
    ],
)  # fmt: skip
def test_images_are_left_out_by_size_and_shape(
    config: dict[str, Any], options: dict[str, Any], names: set[str]
) -> None:
    found, warnings = left_out(config, **options)

    assert found == names
    assert sum(int(warning.split()[1]) for warning in warnings) == len(names)


def test_why_images_are_left_out_is_told() -> None:
    narrow = {"minimum_image_size": 150, "resolution_type": "pixel", "resolution": 128}
    _, warnings = left_out({}, **narrow, minimum_aspect_ratio=0.5, maximum_aspect_ratio=1.5)

    assert warnings == [
        (
            "a: 1 of 5 images are smaller than minimum_image_size (a shorter edge of 150 px) and "
            "are left out: small."
        ),
        (
            "a: 1 of 5 images are narrower than minimum_aspect_ratio (width / height 0.5) and are "
            "left out: tall."
        ),
        (
            "a: 1 of 5 images are wider than maximum_aspect_ratio (width / height 1.5) and are "
            "left out: wide."
        ),
    ]


@settings(deadline=None, max_examples=200)
@given(
    PICTURE_SIZES,
    st.floats(0, 3),
    st.sampled_from([("closest", "pixel"), ("random", "pixel_area")]),
    DIGESTS,
)
def test_no_side_grows_more_than_the_threshold(
    picture: tuple[int, int], limit: float, choice: tuple[str, str], sha256: str
) -> None:
    (width, height), (aspect, unit) = picture, choice
    limited = choosing(unit, 512, aspect).model_copy(update={"max_upscale_threshold": limit})
    buckets = [tuple(64 * round(side / 64) for side in sides(ratio, 512, unit)) for ratio in RATIOS]
    fits = [(w, h) for w, h in buckets if w <= width * (1 + limit) and h <= height * (1 + limit)]

    if not fits:
        assert unfit(width, height, limited, TRUE_PX) == "enlarged"
        return
    assert unfit(width, height, limited, TRUE_PX) is None
    g = geometry_of(width, height, limited, TRUE_PX, sha256)
    assert (g.width_px, g.height_px) in fits
    assert max(g.resize_w / width, g.resize_h / height) <= 1 + limit + 1 / min(width, height)


def test_the_threshold_may_be_that_of_the_run() -> None:
    cut = {"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [1.0]}
    of_run = backend_of({"max_upscale_threshold": "0.2"}, **cut)

    assert of_run == backend_of(**cut, max_upscale_threshold=0.2)
    assert of_run != backend_of({"max_upscale_threshold": 2}, **cut, max_upscale_threshold=1)
    plain = backend_of({"max_upscale_threshold": 0.2}, crop=True, max_upscale_threshold=0.2)
    assert plain.max_upscale_threshold is None


def test_an_image_too_small_for_every_shape_is_named() -> None:
    cut = {"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [1.0]}
    names, (warning,) = left_out({}, **cut, max_upscale_threshold="0.2")

    assert names == {"small", "wide"}  # of 256 by 256 px, from 100 and from 200 px
    assert warning == (
        "a: 2 of 5 images are too small for each of crop_aspect_buckets by max_upscale_threshold "
        "(0.2) and are left out: small, wide."
    )
