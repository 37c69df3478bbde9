"""Options of crops: what they make of the plan, and what is said about them."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of, texts
from trainer_core.config.plan import Backend, plain_backend

PLAIN: dict[str, Any] = {"id": "a", "caption_strategy": "filename"}
CUT: dict[str, Any] = {**PLAIN, "crop": True}
CHOOSES: dict[str, Any] = {**CUT, "crop_aspect": "closest", "crop_aspect_buckets": [0.5, 1]}
AT = "/data_backends/0"
LISTED = "crop_aspect closest or random"
KEPT = (
    "The cache is kept: an image has the same crop in every epoch, also where it is cut at random; "
    "with crops_per_image it has several, which are used in turn."
)
NEW = {
    *(
        "sizes_by",
        "crop_aspect_buckets",
        "crop_aspect_weights",
        "max_upscale_threshold",
        "crops_per_image",
    ),
    *("minimum_aspect_ratio", "maximum_aspect_ratio"),
}
"""Fields that a plan of before has not."""


def backend_of(**options: Any) -> Backend:
    (backend,) = import_small(backends=[CUT | options]).plan.identity.backends
    return backend


def test_a_random_crop_means_the_same_whether_written_or_not() -> None:
    implied, written = {**CUT, "id": "i"}, {**CUT, "id": "w", "crop_style": "random"}
    found = import_small(backends=[implied, {**written, "crop_aspect": "square"}])
    first, second = found.plan.identity.backends

    assert first.crop_style == "random"
    assert first == second.model_copy(update={"id": "i"})
    assert not [text for text in texts(found) if "crop" in text]


@pytest.mark.parametrize(
    "written",
    [
        [0.5, 1, 2.0],
        ["0.5", "1", " 2 "],
        "0.5, 1, 2",
        '[0.5, "1", 2]',
        [{"aspect": 0.5}, {"aspect_bucket": "1"}, 2],
    ],
)
def test_ratios_may_be_written_in_several_ways(written: Any) -> None:
    found = backend_of(crop_aspect="random", crop_aspect_buckets=written)

    assert found.crop_aspect_buckets == (0.5, 1.0, 2.0)
    assert found.crop_aspect_weights == ()


def test_weights_belong_to_random_shapes() -> None:
    weighed = [{"aspect": 0.5, "weight": "0.3"}, {"aspect": 1, "weight": 0.7}]

    drawn = backend_of(crop_aspect="random", crop_aspect_buckets=weighed)
    nearest = backend_of(crop_aspect="closest", crop_aspect_buckets=weighed)

    assert drawn.crop_aspect_weights == (0.3, 0.7)
    assert nearest.crop_aspect_weights == ()


@pytest.mark.parametrize(
    "written",
    [
        [],
        "",
        "[0.5",
        "[" * 100_000,
        5,
        [0],
        [-1.0],
        [True],
        [None],
        [101],
        ["wide"],
        [1.0] * 101,
        [[1.0]],
        [float("nan")],
        {"aspect": 1},
        [{"aspect": 1, "weight": 0.5}],
        [{"aspect": 1, "weight": 0.5}, 1.5],
        [{"aspect": 1, "weight": -1}, {"aspect": 2, "weight": 2}],
        [{"weight": 1}],
        [{"aspect": 1, "aspect_bucket": 1}],
        [{"aspect": 1, "wieght": 1}],
    ],
)
@pytest.mark.parametrize("aspect", ["closest", "random"])
def test_a_wrong_list_of_ratios_is_an_error(written: Any, aspect: str) -> None:
    backend = {**CUT, "crop_aspect": aspect, "crop_aspect_buckets": written}

    assert problems_of(backends=[backend]) == [(f"{AT}/crop_aspect_buckets", "bad_value")]


@pytest.mark.parametrize("aspect", ["closest", "random"])
def test_shapes_from_a_list_need_the_list(aspect: str) -> None:
    for nothing in ({}, {"crop_aspect_buckets": None}):
        backend = {**CUT, "crop_aspect": aspect, **nothing}

        assert problems_of(backends=[backend]) == [(f"{AT}/crop_aspect_buckets", "missing")]


def test_faces_are_not_found_and_the_way_out_is_named() -> None:
    with pytest.raises(Exception, match="cut around the faces") as caught:
        import_small(backends=[{**CUT, "crop_style": "face"}])
    assert "face detector" in str(caught.value)
    assert problems_of(backends=[{**CUT, "crop_style": "face"}]) == [
        (f"{AT}/crop_style", "not_implemented")
    ]


@pytest.mark.parametrize(
    ("config", "backend", "said"),
    [
        ({}, {**CUT, "crop_aspect_buckets": [1]},
         "crop_aspect_buckets (a): has no effect with crop_aspect square."),
        ({}, {**CUT, "crop_aspect": "preserve", "max_upscale_threshold": 0.1},
         "max_upscale_threshold (a): has no effect with crop_aspect preserve."),
        ({"max_upscale_threshold": 0.1}, CUT,
         f"max_upscale_threshold: has no effect where no backend has {LISTED}."),
        ({}, {**PLAIN, "crops_per_image": 2}, "crops_per_image (a): has no effect without crop."),
        ({}, {**CUT, "crop_style": "corner", "crops_per_image": 2},
         "crops_per_image (a): has no effect with crop_style corner."),
        ({}, {**CUT, "vae_cache_clear_each_epoch": True},
         f"vae_cache_clear_each_epoch (a): {KEPT}"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told_in_one_line(
    config: dict[str, Any], backend: dict[str, Any], said: str
) -> None:
    assert set(notices_of(config, backends=[backend])) - set(notices_of(backends=[CUT])) == {said}


def test_a_threshold_of_the_run_acts_where_one_backend_chooses_a_shape() -> None:
    notices = notices_of({"max_upscale_threshold": 0.1}, backends=[{**CUT, "id": "b"}, CHOOSES])

    assert not [text for text in notices if "max_upscale_threshold" in text]


def test_the_edge_of_a_square_is_the_same_in_both_units() -> None:
    for options in ({}, {"crop_style": "corner", "crop_aspect": "square"}):
        by_edge = backend_of(**options, resolution_type="pixel")
        assert by_edge == backend_of(**options, resolution_type="pixel_area")
    assert backend_of(crop_aspect="preserve", resolution_type="pixel").sizes_by != "area"


def test_a_backend_that_uses_nothing_new_is_written_as_before() -> None:
    body = plain_backend("a", role="train", caption_strategy="filename").model_dump(mode="json")

    assert not body.keys() & NEW
    assert body["crop_style"] == "center"
    full = backend_of(
        crop_aspect="random",
        crop_aspect_buckets=[{"aspect": 1, "weight": 1}],
        max_upscale_threshold=0,
        resolution_type="pixel",
        minimum_image_size=1,
        maximum_image_size=2,
        target_downsample_size=1,
        minimum_aspect_ratio=0.5,
        maximum_aspect_ratio=2,
        crops_per_image=2,
    )
    written = full.model_dump(mode="json")
    assert written.keys() >= NEW
    assert Backend.model_validate(written) == full
