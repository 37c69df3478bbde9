"""The options of the evaluation loss."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Evaluation, Operation

CATS = {"id": "cats", "caption_strategy": "filename"}
DOGS = {"id": "dogs", "caption_strategy": "filename", "dataset_type": "eval"}
BIRDS = {**DOGS, "id": "birds"}
USUAL = {"eval_steps_interval": 100}


def evaluation(config: dict[str, Any], *backends: dict[str, Any]) -> Evaluation | None:
    return import_small(config, backends=[CATS, *backends]).plan.operation.evaluation


def test_an_interval_turns_it_on_with_simpletuners_defaults() -> None:
    assert evaluation(USUAL, DOGS) == Evaluation(
        step_interval=100,
        epoch_interval=None,
        images=4,
        sigmas=28,
        backends=("dogs",),
        by_backend=False,
    )


def test_every_option_is_in_the_plan() -> None:
    written = {
        "--eval_steps_interval": "20",
        "eval_epoch_interval": "0.5",
        "num_eval_images": "8",
        "eval_timesteps": 10,
        "eval_dataset_pooling": "false",
    }

    assert evaluation(written, DOGS, BIRDS) == Evaluation(
        step_interval=20,
        epoch_interval=0.5,
        images=8,
        sigmas=10,
        backends=("dogs", "birds"),
        by_backend=True,
    )
    pooled = evaluation({**written, "eval_dataset_pooling": True}, DOGS, BIRDS)
    assert pooled is not None
    assert not pooled.by_backend
    only = evaluation({**written, "eval_dataset_id": "birds"}, DOGS, BIRDS)
    assert only is not None
    assert (only.backends, only.by_backend) == (("birds",), False)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"eval_steps_interval": 0},
        {"eval_steps_interval": None, "eval_epoch_interval": 0},
        {**USUAL, "eval_loss_disable": True},
    ],
)
def test_a_run_without_it_has_the_plan_of_before(config: dict[str, Any]) -> None:
    operation = import_small(config, backends=[CATS, DOGS]).plan.operation

    assert operation.evaluation is None
    assert "evaluation" not in operation.model_dump(mode="json")


def test_it_is_not_part_of_the_identity_and_survives_the_plans_document() -> None:
    plan = import_small(USUAL, backends=[CATS, DOGS]).plan
    without = import_small({}, backends=[CATS, DOGS]).plan

    assert plan.identity_digest() == without.identity_digest()
    assert Operation.model_validate(plan.operation.model_dump(mode="json")) == plan.operation


def test_without_held_out_images_it_says_which_it_measures() -> None:
    told = "no dataset has dataset_type eval: images that are trained on are measured."

    found = evaluation(USUAL)

    assert found is not None
    assert found.backends == ()
    assert f"eval_steps_interval: {told}" in notices_of(USUAL)
    assert f"eval_epoch_interval: {told}" in notices_of({"eval_epoch_interval": 1})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"num_eval_images": 8}, "without eval_steps_interval or eval_epoch_interval"),
        ({"eval_timesteps": 8}, "without eval_steps_interval or eval_epoch_interval"),
        ({"eval_dataset_pooling": True}, "without eval_steps_interval or eval_epoch_interval"),
        ({"eval_dataset_id": "dogs"}, "without eval_steps_interval or eval_epoch_interval"),
        ({"eval_dataset_id": "no"}, "without eval_steps_interval or eval_epoch_interval"),
        ({"eval_dataset_pooling": True, **USUAL}, "with fewer than two eval datasets"),
        ({"eval_steps_interval": 5, "eval_loss_disable": True}, "with eval_loss_disable"),
        ({"eval_epoch_interval": 5, "eval_loss_disable": True}, "with eval_loss_disable"),
    ],
)
def test_an_option_without_effect_is_told(config: dict[str, Any], why: str) -> None:
    name = next(iter(config))

    assert f"{name}: has no effect {why}." in notices_of(config, backends=[CATS, DOGS])


@pytest.mark.parametrize(
    ("config", "pointer", "message"),
    [
        ({"eval_steps_interval": -1}, "eval_steps_interval", "has to be at least 0, not -1."),
        ({"eval_epoch_interval": -0.5}, "eval_epoch_interval", "has to be at least 0, not -0.5."),
        ({**USUAL, "num_eval_images": 0}, "num_eval_images", "has to be at least 1, not 0."),
        ({**USUAL, "eval_timesteps": 0}, "eval_timesteps", "has to be at least 1, not 0."),
        ({**USUAL, "eval_timesteps": 201}, "eval_timesteps", "has to be at most 200, not 201."),
    ],
)
def test_a_wrong_value_is_refused(config: dict[str, Any], pointer: str, message: str) -> None:
    problems = problems_of(config, messages=True, backends=[CATS, DOGS])
    assert problems == [(f"/config/{pointer}", f"{pointer} {message}")]


def test_an_unknown_dataset_is_refused_with_those_there_are() -> None:
    written = {**USUAL, "eval_dataset_id": "cats"}

    assert problems_of(written, messages=True, backends=[CATS, DOGS, BIRDS]) == [
        (
            "/config/eval_dataset_id",
            "cats is no data backend with dataset_type eval; it may be dogs or birds.",
        )
    ]
    assert problems_of(written, messages=True, backends=[CATS]) == [
        (
            "/config/eval_dataset_id",
            "cats is no data backend with dataset_type eval; there is none.",
        )
    ]
    # A list with a problem of its own is not called incomplete.
    broken = problems_of(written, backends=[{**CATS, "repeats": -1}, DOGS])
    assert [pointer for pointer, _ in broken] == ["/data_backends/0/repeats"]


def test_a_clip_score_is_told_apart() -> None:
    notices = notices_of({**USUAL, "evaluation_type": "clip"}, backends=[CATS, DOGS])

    assert any(each.startswith("evaluation_type: has no effect") for each in notices)
    assert not any("eval_steps" in notice for notice in notices)
