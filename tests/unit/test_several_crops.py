"""Images with several random crops: where they lie, when each is used, and what is said of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from tests.unit.crop_examples import NAME, coordinates, drawn, item
from trainer_core.config.plan import Identity
from trainer_core.data.images import load_mask, load_rgb
from trainer_core.data.index import DataIndex, FileItem, Picture
from trainer_core.data.indexing import build_index
from trainer_core.data.orders import sampler_of

CUT: dict[str, Any] = NAME | {"crop": True, "resolution": 64}


def built(
    *items: FileItem, config: dict[str, Any] | None = None, masked: bool = False, **options: Any
) -> tuple[Identity, DataIndex]:
    backends = [CUT | options]
    if masked:
        backends[0]["conditioning_data"] = "m"
        backends.append({"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask"})
    plan = import_small({"train_batch_size": 1} | (config or {}), backends=backends).plan
    return plan.identity, build_index(plan, items, TINY_CONFIG)


def pictures(index: DataIndex, path: str) -> list[Picture]:
    """The crops of one image, in their order."""
    (sample,) = (each for each in index.samples if each.path == path)
    contents = [
        index.entries[sample.crop(number).latents].content for number in range(sample.num_crops)
    ]
    return [content for content in contents if isinstance(content, Picture)]


def latents_of(index: DataIndex) -> set[str]:
    return {each.digest for n, each in enumerate(index.entries) if index.kind_of(n) == "latents"}


def test_each_crop_has_the_pixels_at_a_place_of_its_own(tmp_path: Path) -> None:
    sha256 = coordinates(tmp_path / "a.png", 250, 214)
    image = item("a.png", (250, 214)).model_copy(update={"sha256": sha256})

    _, index = built(image, resolution=128, crops_per_image=6)

    places = []
    for picture in pictures(index, "a.png"):
        got = np.asarray(load_rgb(tmp_path / "a.png", picture.geometry, name="a"))
        assert got.shape == (128, 128, 3)
        assert np.array_equal(got[..., 0] - got[:1, :1, 0], np.tile(np.arange(128), (128, 1)))
        places.append([int(level) for level in got[0, 0, :2]])
    sizes = ["250x214 128x128", *(f"250x214 128x128 {n}" for n in range(1, 6))]
    assert places == [
        [drawn("x", sha256, each) % 123, drawn("y", sha256, each) % 87] for each in sizes
    ]


def test_masks_are_cut_as_each_crop_of_their_images(tmp_path: Path) -> None:
    size = (200, 150)
    coordinates(tmp_path / "a.png", *size)

    _, index = built(item("a.png", size), item("a.png", size, "m"), masked=True, crops_per_image=4)

    (sample,) = index.samples
    assert sample.num_crops == 4
    for number in range(4):
        crop = sample.crop(number)
        assert crop.mask is not None
        image, mask = (index.entries[each].content for each in (crop.latents, crop.mask))
        assert isinstance(image, Picture)
        assert isinstance(mask, Picture)
        seen = np.asarray(load_rgb(tmp_path / "a.png", image.geometry, name="a"))[:, :, 0]
        weights = load_mask(tmp_path / "a.png", mask.geometry, "mask", 8, name="m")
        cells = seen.reshape(8, 8, 8, 8).mean(axis=(1, 3))
        assert np.allclose(np.asarray(weights), cells, atol=1)


def test_an_image_of_its_buckets_size_has_one_crop_and_one_entry() -> None:
    whole, larger = item("whole.png", (64, 64)), item("larger.png", (65, 64))

    _, index = built(whole, larger, crops_per_image=40)
    _, plain = built(whole, larger)

    assert [sample.num_crops for sample in index.samples] == [2, 1]
    assert pictures(index, "whole.png") == pictures(plain, "whole.png")
    assert len(latents_of(index)) == 3


def test_the_first_crop_is_that_of_an_image_with_one_and_other_data_is_written_as_before() -> None:
    images = [item(f"{n}.png", (200, 100 + n)) for n in range(9)]
    _, plain = built(*images)
    _, one = built(*images, crops_per_image=1)
    _, several = built(*images, crops_per_image=3)

    assert one == plain
    assert "more_crops" not in plain.model_dump_json()
    assert latents_of(plain) < latents_of(several)
    assert len(latents_of(several)) == 27
    assert several.digest() != plain.digest()
    assert DataIndex.model_validate_json(several.model_dump_json()) == several


def test_one_image_more_encodes_its_own_crops_only() -> None:
    images = [item(f"{n}.png", (200, 150)) for n in range(5)]
    _, before = built(*images[:4], crops_per_image=3)
    _, after = built(*images, crops_per_image=3)

    new = latents_of(after) - latents_of(before)

    assert len(new) == 3
    assert latents_of(before) <= latents_of(after)
    assert {each.sha256 for each in pictures(after, "4.png")} == {images[4].sha256}


def test_crops_of_a_random_shape_have_all_the_same() -> None:
    images = [item(f"{n}.png", (300, 250)) for n in range(12)]
    shapes = {"crop_aspect": "random", "crop_aspect_buckets": [0.5, 1, 2]}
    _, plain = built(*images, **shapes, resolution=128)

    _, index = built(*images, **shapes, resolution=128, crops_per_image=5)

    for sample in index.samples:
        crops = [picture.geometry for picture in pictures(index, sample.path)]
        sizes = {(each.width_px, each.height_px) for each in crops}
        assert sizes == {(sample.width_px, sample.height_px)}
        assert sample.num_crops == 5
    assert len({(each.width_px, each.height_px) for each in index.samples}) == 3
    assert latents_of(plain) < latents_of(index)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 7),
    st.integers(0, 4),
    st.integers(1, 4),
    st.lists(st.integers(64, 67), min_size=1, max_size=7),
    st.integers(0, 2**31),
)
def test_each_crop_is_used_equally_often_within_one(
    crops: int, repeats: int, epochs: int, widths: list[int], seed: int
) -> None:
    images = [item(f"{n}.png", (width, 66)) for n, width in enumerate(widths)]
    identity, index = built(*images, config={"seed": seed}, crops_per_image=crops, repeats=repeats)
    sampler = sampler_of(identity, index)
    uses = Counter[tuple[int, int]]()

    for epoch in range(epochs):
        for i in range(
            epoch * len(images) * (1 + repeats), (epoch + 1) * len(images) * (1 + repeats)
        ):
            batch = sampler.micro_batch(i)
            uses.update(zip(batch.samples, batch.crops, strict=True))
        for position, sample in enumerate(index.samples):
            of_sample = [uses[position, number] for number in range(sample.num_crops)]
            assert sum(of_sample) == (epoch + 1) * (1 + repeats)
            assert max(of_sample) - min(of_sample) <= 1
    assert {position for position, _ in uses} == set(range(len(images)))


def test_seeds_begin_with_other_crops_and_each_is_as_likely() -> None:
    images = [item("a.png", (200, 200))]
    first = Counter[int]()
    for seed in range(150):
        identity, index = built(*images, config={"seed": seed}, crops_per_image=3)
        first.update(sampler_of(identity, index).micro_batch(0).crops)

    assert first.keys() == {0, 1, 2}
    assert all(abs(times - 50) < 5 * (150 * 2 / 9) ** 0.5 for times in first.values())


def test_copies_in_a_batch_have_other_crops() -> None:
    """A bucket with one image fills a batch of three with it."""
    identity, index = built(
        item("a.png", (200, 200)), config={"train_batch_size": 3}, crops_per_image=3
    )

    batch = sampler_of(identity, index).micro_batch(0)

    assert sorted(batch.crops) == [0, 1, 2]


@pytest.mark.parametrize(
    ("steps", "repeats", "uses"),
    [(100, 0, None), (5, 0, ("2 times", 2)), (9, 1, None), (4, 0, ("once", 1)), (1, 1, None)],
)
def test_a_run_that_does_not_use_its_crops_says_so(
    steps: int, repeats: int, uses: tuple[str, int] | None
) -> None:
    images = [item(f"{n}.png", (200, 150)) for n in range(4)]
    crops = 2 if steps == 1 else 3
    config = {"max_train_steps": steps}

    _, index = built(*images, config=config, repeats=repeats, crops_per_image=crops)

    assert [text for text in index.warnings if "uses an image" in text] == [
        f"a: crops_per_image is 3, and the run uses an image about {times}: the other crops are "
        f"encoded and not trained on. Lower it to {number}, or train longer."
        for times, number in ([uses] if uses else [])
    ]


def test_images_with_one_crop_have_no_costs_to_tell() -> None:
    _, index = built(*(item(f"{n}.png", (200, 150)) for n in range(4)))

    assert not [text for text in index.warnings if "crop" in text]


def test_the_cost_of_true_sizes_and_images_with_fewer_crops_are_told() -> None:
    images = [item(f"{n}.png", (3000, 2000)) for n in range(200)]
    small = item("small.png", (300, 300))
    true = {"pretrained_model_name_or_path": "HiDream-ai/HiDream-I1-Full"}
    backend = CUT | {"resolution": 1024, "crops_per_image": 4}
    plan = import_small(true, backends=[backend]).plan
    config = TINY_CONFIG | {"max_resolution": [128, 128]}

    index = build_index(plan, [*images, small], config)

    # 801 squares of 1024 px, in 16 channels an eighth as wide and high, twice, of 4 bytes each.
    gib = 801 * 16 * 128**2 * 2 * 4 / 2**30
    assert (
        f"a: with crops_per_image 4, 201 images have 801 crops, whose latents take {gib:.1f} GiB "
        "of the cache. Images that are hardly larger than their bucket have fewer."
    ) in index.warnings
