"""Which images become samples, how they are cut, and which words go with them."""

from typing import Any, Final

import pytest

from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from tests.integration.plan_fields.world import CATS, DOGS, MASKS, SIZES, Files, World
from trainer_core.config.plan import Plan
from trainer_core.data.index import PictureEntry, Sample, TextEntry

GROUP: Final = Group()
_BACKEND: Final = "identity.backends[]"


def _samples(plan: Plan, world: World) -> dict[str, Sample]:
    """By the picture's name without its ending."""
    return {sample.path.removesuffix(".png"): sample for sample in world.index(plan).samples}


def _size(plan: Plan, world: World, name: str) -> tuple[int, int]:
    sample = _samples(plan, world)[name]
    return sample.width_px, sample.height_px


def _picture(plan: Plan, world: World, name: str) -> PictureEntry:
    ref = _samples(plan, world)[name].latents
    entry = world.index(plan).shards[ref.shard].spec.entries[ref.row]
    assert isinstance(entry, PictureEntry)
    return entry


def _caption(plan: Plan, world: World, name: str) -> str:
    (ref,) = _samples(plan, world)[name].texts
    entry = world.index(plan).shards[ref.shard].spec.entries[ref.row]
    assert isinstance(entry, TextEntry)
    return entry.text


@GROUP.observes(
    f"{_BACKEND}.id",
    reset="lynxes",
    refuses=(KeyError,),  # no folder has that name
)
def known_by_id(plan: Plan, world: World) -> None:
    expect({sample.backend for sample in world.index(plan).samples}, {CATS["id"]})


@GROUP.observes(
    f"{_BACKEND}.role",
    files=Files(others=[{**DOGS, "dataset_type": "eval"}]),
    reset="train",
    at=1,
)
def held_out(plan: Plan, world: World) -> None:
    index, sampler = world.index(plan), world.sampler(plan)
    drawn = {i for k in range(20) for i in sampler.micro_batch(k).samples}
    expect({index.samples[i].backend for i in drawn}, {"cats"})
    expect([sample.path for sample in index.samples if sample.held_out], ["green_dog.png"])


@GROUP.observes(
    f"{_BACKEND}.caption_strategy",
    reset="filename",
)
def captioned_by_file(plan: Plan, world: World) -> None:
    expect(_caption(plan, world, "red_cat"), "A red cat.")


@GROUP.observes(
    f"{_BACKEND}.instance_prompt",
    files=Files(cats={"caption_strategy": "instanceprompt", "instance_prompt": "my cat"}),
    reset="your cat",
)
def captioned_by_prompt(plan: Plan, world: World) -> None:
    expect({_caption(plan, world, name) for name in SIZES}, {"my cat"})


@GROUP.observes(f"{_BACKEND}.resolution_px", reset=128)
def of_that_area(plan: Plan, world: World) -> None:
    expect(_size(plan, world, "white_cat"), (64, 64))
    expect(_size(plan, world, "tall_cat"), (64, 128))


@GROUP.observes(
    f"{_BACKEND}.aspect_bucket_rounding",
    files=Files(config={"aspect_bucket_rounding": 2, "resolution": 256}),
    reset=1,
)
def in_buckets_of_a_ratio(plan: Plan, world: World) -> None:
    # 126 / 100: 287 by 228 px are nearest to 256 by 256; of 1.3 that would be 320 by 256.
    expect(_size(plan, world, "red_cat"), (256, 256))


_CROP: Final[dict[str, Any]] = {"crop": True, "crop_style": "center"}


@GROUP.observes(f"{_BACKEND}.crop", files=Files(cats=_CROP), reset=False)
@GROUP.observes(
    f"{_BACKEND}.crop_aspect",
    files=Files(cats={**_CROP, "crop_aspect": "square"}),
    reset="preserve",
)
def cut_square(plan: Plan, world: World) -> None:
    expect({_size(plan, world, name) for name in SIZES}, {(64, 64)})


@GROUP.observes(
    f"{_BACKEND}.minimum_image_size_px",
    files=Files(cats={"minimum_image_size": 100}),
    reset=120,
)
def large_enough(plan: Plan, world: World) -> None:
    expect(_samples(plan, world).keys(), {"red_cat", "white_cat"})


_SHRUNK: Final = Files(cats={**_CROP, "maximum_image_size": 100, "target_downsample_size": 80})


@GROUP.observes(f"{_BACKEND}.maximum_image_size_px", files=_SHRUNK, reset=200)
@GROUP.observes(f"{_BACKEND}.target_downsample_size_px", files=_SHRUNK, reset=96)
def made_smaller_first(plan: Plan, world: World) -> None:
    geometry = _picture(plan, world, "white_cat").geometry
    expect((geometry.resize_w, geometry.resize_h), (80, 80))


@GROUP.observes(
    f"{_BACKEND}.repeats",
    files=Files(cats={"repeats": 2}),
    reset=1,
)
def visited_again(plan: Plan, world: World) -> None:
    expect(world.sampler(plan).micro_batches_per_epoch, 3 * len(SIZES))


@GROUP.observes(
    f"{_BACKEND}.is_regularisation",
    files=Files(cats={"is_regularisation_data": True}),
    reset=False,
)
def left_as_they_are(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    (batch,) = world.batches(plan, parts, 1)
    # A new adapter changes nothing, so it is where it should be.
    expect(parts.backend.losses(batch).item(), pytest.approx(0, abs=1e-9))


_MASKED: Final = Files(cats={"conditioning_data": "masks"}, others=[MASKS])


@GROUP.observes(f"{_BACKEND}.masks", files=_MASKED, reset=None, at=0)
@GROUP.observes(
    f"{_BACKEND}.mask_kind",
    files=_MASKED,
    reset="segmentation",
    at=1,
)
def counted_by_greys(plan: Plan, world: World) -> None:
    (batch,) = world.batches(plan, world.parts(plan), 1)
    expect(batch.mask_B1HW is None, False)
    assert batch.mask_B1HW is not None
    rows = batch.mask_B1HW.shape[2] // 2
    expect(batch.mask_B1HW[:, :, :rows].unique().tolist(), pytest.approx([51 / 255]))
    expect(batch.mask_B1HW[:, :, rows:].any().item(), False)
