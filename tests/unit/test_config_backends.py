"""Backends of masks and of regularisation data."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of, texts
from trainer_core.config.plan.problems import Problem
from trainer_core.config.simpletuner.backend_pointers import pointers_to, repointed

CATS = {"id": "cats", "caption_strategy": "filename", "crop": True, "crop_style": "center"}
CUTS = {"id": "cuts", "dataset_type": "conditioning", "conditioning_type": "mask"}
NAMED = {**CATS, "conditioning_data": "cuts", "resolution": 128}


@pytest.mark.parametrize("naming", ["cuts", ["cuts"]])
@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_masks_are_cut_as_the_images_that_name_them(naming: Any, kind: str) -> None:
    backends = [{**CUTS, "conditioning_type": kind}, {**NAMED, "conditioning_data": naming}]

    cuts, cats = import_small(backends=backends).plan.identity.backends

    assert (cats.role, cats.masks, cats.mask_kind) == ("train", "cuts", None)
    assert (cuts.role, cuts.masks, cuts.mask_kind) == ("mask", None, kind)
    assert (cuts.resolution_px, cuts.crop, cuts.repeats) == (128, True, 0)


@pytest.mark.parametrize(
    ("backends", "pointer", "code"),
    [
        ([{**NAMED, "conditioning_data": "cut"}, CUTS], "0/conditioning_data", "bad_value"),
        ([{**NAMED, "conditioning_data": "cats"}], "0/conditioning_data", "bad_value"),
        ([NAMED, {**CUTS, "disabled": 1}], "0/conditioning_data", "bad_value"),
        ([{**NAMED, "conditioning_data": ["cuts", "b"]}, CUTS], "0/conditioning_data",
         "not_implemented"),
        ([{**NAMED, "conditioning_data": 5}, CUTS], "0/conditioning_data", "bad_value"),
        ([CATS, CUTS], "1/conditioning_type", "conflict"),
        ([NAMED, {**CUTS, "conditioning_type": "controlnet"}], "1/conditioning_type",
         "not_implemented"),
        ([NAMED, {**CUTS, "conditioning_type": None}], "1/conditioning_type", "missing"),
        ([CUTS], "0/conditioning_type", "conflict"),
    ],
)  # fmt: skip
def test_a_wrong_link_between_images_and_masks_is_pointed_at(
    backends: list[Any], pointer: str, code: str
) -> None:
    assert (f"/data_backends/{pointer}", code) in problems_of(backends=backends)


def test_masks_need_no_captions_and_say_what_they_do_not_take() -> None:
    warnings = notices_of(backends=[NAMED, {**CUTS, "repeats": 3, "resolution": 512}])

    assert "repeats (cuts): has no effect on masks." in warnings
    assert "resolution (cuts): has no effect on masks." in warnings
    on_images = notices_of(backends=[{**CATS, "conditioning_type": "mask"}])
    assert "conditioning_type (cats): has no effect on images." in on_images


def test_full_rank_takes_no_regularisation_data() -> None:
    backends = [{**CATS, "is_regularisation_data": "true"}]
    full = {"model_type": "full", "lora_type": None}

    assert import_small(backends=backends).plan.identity.backends[0].is_regularisation
    assert any("learns only to predict as the base" in w for w in notices_of(backends=backends))
    assert problems_of(full, backends=backends) == [
        ("/data_backends/0/is_regularisation_data", "conflict")
    ]


def test_held_out_images_are_no_regularisation_data() -> None:
    held_out = {
        "id": "dogs",
        "caption_strategy": "filename",
        "dataset_type": "eval",
        "is_regularisation_data": True,
    }

    imported = import_small(backends=[CATS, held_out])

    assert not imported.plan.identity.backends[1].is_regularisation
    assert any("dogs" in warning for warning in texts(imported))


def test_problems_of_the_data_point_at_the_backend_in_the_file() -> None:
    cache = {"id": "text", "dataset_type": "text_embeds"}
    off = {**CATS, "disabled": True}
    written = [cache, off, {"--id": "cats", "caption_strategy": "filename"}, CATS | {"id": "dogs"}]
    plan = import_small(backends=written).plan

    pointers = pointers_to(plan.identity.backends, written)
    problems = [
        Problem(pointer=pointer, code="missing", message="x")
        for pointer in ("/data_backends/0", "/data_backends/1/conditioning_data", "/config/seed")
    ]

    assert pointers == {"cats": "/data_backends/2", "dogs": "/data_backends/3"}
    assert [each.pointer for each in repointed(problems, pointers)] == [
        "/data_backends/2",
        "/data_backends/3/conditioning_data",
        "/config/seed",
    ]


def test_without_a_caption_strategy_the_names_of_the_files_are_the_captions() -> None:
    bare = {"id": "cats", "instance_prompt": "a cat"}
    imported = import_small(backends=[bare])
    of_the_run = import_small({"caption_strategy": "textfile"}, backends=[bare])

    assert imported.plan.identity.backends[0].caption_strategy == "filename"
    given, prompt = (each for each in imported.notices if "cats" in each.backends)
    assert (given.effect, given.text) == (
        "handled",
        (
            "caption_strategy (cats): is not given: the captions are the names of the files, as in "
            "SimpleTuner."
        ),
    )
    assert prompt.text == "instance_prompt (cats): has no effect with caption_strategy filename."
    assert of_the_run.plan.identity.backends[0].caption_strategy == "textfile"
    assert not any("captions are" in each.message for each in of_the_run.notices)
    wrong = [{"id": "cats", "caption_strategy": "names"}]
    assert problems_of(backends=wrong) == [("/data_backends/0/caption_strategy", "bad_value")]
