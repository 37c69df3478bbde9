"""Backends: their samples, image sizes, captions and masks."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import CATS, DOGS, MASKS, SIZES, Files
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Check, Group
from trainer_core.config.plan import Plan
from trainer_core.data.buckets import Geometry
from trainer_core.data.captions import captions_of
from trainer_core.data.index import Picture, Sample

GROUP: Final = Group()
_BACKEND: Final = "identity.backends[]"
_CROP: Final[dict[str, Any]] = {"crop": True, "crop_style": "center"}


def _samples(plan: Plan, environment: Environment) -> dict[str, Sample]:
    """By the image's file name without its suffix."""
    samples = environment.index(plan).samples
    return {sample.path.removesuffix(".png"): sample for sample in samples}


@GROUP.observes(
    f"{_BACKEND}.id",
    reset="lynxes",
    refuses=(KeyError,),  # no folder has that name
)
def samples_carry_the_backends_id(plan: Plan, environment: Environment) -> None:
    expect({sample.backend for sample in environment.index(plan).samples}, {CATS["id"]})


@GROUP.observes(
    f"{_BACKEND}.role",
    files=Files(others=[{**DOGS, "dataset_type": "eval"}]),
    reset="train",
    at=1,
)
def held_out_images_are_not_trained_on(plan: Plan, environment: Environment) -> None:
    index, sampler = environment.index(plan), environment.sampler(plan)
    drawn = {i for k in range(20) for i in sampler.micro_batch(k).samples}
    expect({index.samples[i].backend for i in drawn}, {"cats"})
    expect([sample.path for sample in index.samples if sample.held_out], ["green_dog.png"])


def _captions_are(expected: Mapping[str, str]) -> Check:
    def images_have_these_captions(plan: Plan, environment: Environment) -> None:
        samples, index = _samples(plan, environment), environment.index(plan)
        for name, caption in expected.items():
            expect(index.captions_of(samples[name]), (caption,))

    return images_have_these_captions


GROUP.add(
    f"{_BACKEND}.caption_strategy", _captions_are({"red_cat": "A red cat."}), reset="filename"
)
GROUP.add(
    f"{_BACKEND}.instance_prompt",
    _captions_are(dict.fromkeys(SIZES, "my cat")),
    files=Files(cats={"caption_strategy": "instanceprompt", "instance_prompt": "my cat"}),
    reset="your cat",
)

_PREPENDED: Final = {"instance_prompt": "my", "prepend_instance_prompt": True}
GROUP.add(
    f"{_BACKEND}.prepend_instance_prompt",
    _captions_are({"red_cat": "my A red cat."}),
    files=Files(cats=_PREPENDED),
    reset=False,
)
_SHUFFLE: Final[dict[str, Any]] = {
    "enable": True,
    "count": 2,
    "seed": 3,
    "split_on": "space",
    "position_start": 1,
    "include_original": False,
}
_LONG: Final = "one two,three. four five,six. seven eight"


def _shuffled_captions_are(plan: Plan, environment: Environment) -> None:
    (backend,) = plan.identity.backends
    expect(captions_of(backend, "a.png", _LONG), _VARIANTS)


_VARIANTS: Final = (
    "one seven four eight five,six. two,three.",
    "one eight five,six. seven two,three. four",
)
for _name, _other in (
    ("count", 1),
    ("seed", 4),
    ("split_on", "comma"),
    ("position_start", 0),
    ("include_original", True),
):
    GROUP.add(
        f"{_BACKEND}.caption_shuffle.{_name}",
        _shuffled_captions_are,
        files=Files(cats={"caption_shuffle": _SHUFFLE}),
        reset=_other,
    )


@GROUP.observes(
    f"{_BACKEND}.disable_multiline_split",
    files=Files(cats={"disable_multiline_split": True}),
    reset=False,
)
def a_caption_file_is_one_caption(plan: Plan, environment: Environment) -> None:
    (backend,) = plan.identity.backends
    expect(captions_of(backend, "a.png", "one\ntwo"), ("one\ntwo",))


GROUP.add(
    f"{_BACKEND}.caption_filters[]",
    _captions_are({"red_cat": "A blue cat."}),
    files=Files(
        others=[{"id": "t", "dataset_type": "text_embeds", "caption_filter_list": ["s/red/blue/"]}]
    ),
    reset=["s/red/green/"],
)


def _buckets_are(expected: Mapping[str, tuple[int, int]]) -> Check:
    def images_have_these_sizes(plan: Plan, environment: Environment) -> None:
        samples = _samples(plan, environment)
        found = {name: (samples[name].width_px, samples[name].height_px) for name in expected}
        expect(found, expected)

    return images_have_these_sizes


_ALL_SQUARE: Final = _buckets_are(dict.fromkeys(SIZES, (64, 64)))
GROUP.add(
    f"{_BACKEND}.resolution_px",
    _buckets_are({"white_cat": (64, 64), "tall_cat": (64, 128)}),
    reset=128,
)
GROUP.add(
    f"{_BACKEND}.aspect_bucket_rounding",
    # 126 / 100 = 1.26: 287 by 228 px are nearest to 256 by 256; rounded to 1.3, to 320 by 256.
    _buckets_are({"red_cat": (256, 256)}),
    files=Files(config={"aspect_bucket_rounding": 2, "resolution": 256}),
    reset=1,
)
GROUP.add(f"{_BACKEND}.crop", _ALL_SQUARE, files=Files(cats=_CROP), reset=False)
GROUP.add(
    f"{_BACKEND}.crop_aspect",
    _ALL_SQUARE,
    files=Files(cats={**_CROP, "crop_aspect": "square"}),
    reset="preserve",
)
GROUP.add(
    f"{_BACKEND}.sizes_by",
    _buckets_are({"white_cat": (64, 64), "tall_cat": (64, 192)}),
    files=Files(cats={"resolution_type": "pixel"}),
    reset="area",
)
_LISTED: Final[dict[str, Any]] = {**_CROP, "crop_aspect": "closest"}
_ALL_WIDE: Final = _buckets_are(dict.fromkeys(SIZES, (128, 64)))
GROUP.add(
    f"{_BACKEND}.crop_aspect_buckets[]",
    _ALL_WIDE,
    files=Files(cats={**_LISTED, "crop_aspect_buckets": [4.0]}),
    reset=[0.25],
)
_WEIGHED: Final = [{"aspect": 4, "weight": 1}, {"aspect": 0.25, "weight": 0}]
GROUP.add(
    f"{_BACKEND}.crop_aspect_weights[]",
    _ALL_WIDE,
    files=Files(cats={**_CROP, "crop_aspect": "random", "crop_aspect_buckets": _WEIGHED}),
    reset=[0.0, 1.0],
)


def _kept_are(*names: str) -> Check:
    def other_images_are_left_out(plan: Plan, environment: Environment) -> None:
        expect(_samples(plan, environment).keys(), set(names))

    return other_images_are_left_out


GROUP.add(
    f"{_BACKEND}.minimum_image_size_px",
    _kept_are("red_cat", "white_cat"),
    files=Files(cats={"minimum_image_size": 100}),
    reset=120,
)
GROUP.add(
    f"{_BACKEND}.minimum_aspect_ratio",
    _kept_are("black_cat", "red_cat", "white_cat"),
    files=Files(cats={"minimum_aspect_ratio": 0.5}),
    reset=None,
)
GROUP.add(
    f"{_BACKEND}.maximum_aspect_ratio",
    _kept_are("black_cat", "tall_cat", "white_cat"),
    files=Files(cats={"maximum_aspect_ratio": 1}),
    reset=None,
)
GROUP.add(
    f"{_BACKEND}.max_upscale_threshold",
    _kept_are("black_cat", "red_cat", "white_cat"),
    files=Files(cats={**_LISTED, "crop_aspect_buckets": [1.0, 4.0], "max_upscale_threshold": 0.2}),
    reset=None,
)


@GROUP.observes(
    f"{_BACKEND}.crop_style",
    files=Files(cats={"crop": True, "crop_style": "corner"}),
    reset="center",
)
def images_are_cut_at_the_top_left(plan: Plan, environment: Environment) -> None:
    geometry = _geometry_of("white_cat", plan, environment)
    expect((geometry.crop_x, geometry.crop_y), (0, 0))


def _geometry_of(name: str, plan: Plan, environment: Environment) -> Geometry:
    sample = _samples(plan, environment)[name]
    picture = environment.index(plan).entries[sample.latents].content
    assert isinstance(picture, Picture)
    return picture.geometry


@GROUP.observes(
    f"{_BACKEND}.crops_per_image",
    files=Files(cats={"crop": True, "crops_per_image": 3}),
    reset=2,
)
def an_image_is_cut_at_another_place_in_each_epoch(plan: Plan, environment: Environment) -> None:
    index, sampler = environment.index(plan), environment.sampler(plan)
    entries = set()
    for i in range(3 * len(SIZES)):
        batch = sampler.micro_batch(i)
        ((position,), (crop,)) = batch.samples, batch.crops
        sample = index.samples[position]
        if sample.path == "white_cat.png":
            entries.add(sample.crop(crop).latents)
    expect(len(entries), 3)


_DOWNSAMPLED: Final = Files(cats={**_CROP, "maximum_image_size": 100, "target_downsample_size": 80})


@GROUP.observes(f"{_BACKEND}.maximum_image_size_px", files=_DOWNSAMPLED, reset=200)
@GROUP.observes(f"{_BACKEND}.target_downsample_size_px", files=_DOWNSAMPLED, reset=96)
def large_images_are_downsampled_before_the_crop(plan: Plan, environment: Environment) -> None:
    geometry = _geometry_of("white_cat", plan, environment)
    expect((geometry.resize_w, geometry.resize_h), (80, 80))


@GROUP.observes(f"{_BACKEND}.repeats", files=Files(cats={"repeats": 2}), reset=1)
def an_epoch_draws_each_image_three_times(plan: Plan, environment: Environment) -> None:
    expect(environment.sampler(plan).timeline.spans[0].micro_batches, 3 * len(SIZES))


@GROUP.observes(
    f"{_BACKEND}.is_regularisation",
    files=Files(cats={"is_regularisation_data": True}),
    reset=False,
)
def a_new_adapter_has_no_loss(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    (batch,) = environment.batches(plan, loaded, 1)
    # The target is the base's own prediction, which a new adapter does not change.
    expect(loaded.backend.losses(batch).item(), pytest.approx(0, abs=1e-9))


_MASKED: Final = Files(cats={"conditioning_data": "masks"}, others=[MASKS])


@GROUP.observes(f"{_BACKEND}.masks", files=_MASKED, reset=None, at=0)
@GROUP.observes(f"{_BACKEND}.mask_kind", files=_MASKED, reset="segmentation", at=1)
def weights_are_the_masks_grey_values(plan: Plan, environment: Environment) -> None:
    (batch,) = environment.batches(plan, environment.load(plan), 1)
    expect(batch.mask_B1HW is None, False)
    assert batch.mask_B1HW is not None
    rows = batch.mask_B1HW.shape[2] // 2
    expect(batch.mask_B1HW[:, :, :rows].unique().tolist(), pytest.approx([51 / 255]))
    expect(batch.mask_B1HW[:, :, rows:].any().item(), False)
