"""Options that mix data backends: what the plan has, and what is said of values that cannot act."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Backend, Identity

A: dict[str, Any] = {"id": "a", "caption_strategy": "filename"}
B: dict[str, Any] = {**A, "id": "b"}
HELD_OUT: dict[str, Any] = {**A, "id": "e", "dataset_type": "eval"}
MASKS: dict[str, Any] = {"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask"}


def identity_of(*backends: dict[str, Any], **config: Any) -> Identity:
    return import_small(config, backends=list(backends)).plan.identity


def first_of(**options: Any) -> Backend:
    return identity_of({**A, **options}, B, max_train_steps=900).backends[0]


def test_new_plans_have_the_order_by_content_and_the_mixture_of_simpletuner() -> None:
    identity = identity_of(A, B)

    assert (identity.sample_order, identity.data_backend_sampling) == (2, "auto-weighting")
    assert identity_of(A, B, data_backend_sampling="uniform").data_backend_sampling == "uniform"


def test_plans_of_before_have_the_order_by_names_and_their_digests() -> None:
    written = import_small().plan.model_dump(mode="json")
    assert written["identity"].pop("sample_order") == 2

    earlier = Identity.model_validate(written["identity"])

    assert earlier.sample_order == 1
    new = {"sample_order", "data_backend_sampling"}
    assert not new & earlier.model_dump(mode="json").keys()
    names = ("probability", "start_step", "start_epoch", "end_step", "end_epoch")
    (backend,) = earlier.model_dump(mode="json")["backends"]
    assert not {*names, "max_num_samples"} & backend.keys()


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"probability": "0.25"}, "probability", 0.25),
        ({"probability": None}, "probability", 1.0),
        ({"start_step": 300}, "start_step", 300),
        ({"start_step": 0}, "start_step", 1),
        ({"start_step": -5}, "start_step", 1),
        ({"start_epoch": "3"}, "start_epoch", 3),
        ({"start_epoch": 0}, "start_epoch", 1),
        ({"end_step": 300}, "end_step", 300),
        ({"end_step": 0}, "end_step", None),
        ({"end_epoch": -1}, "end_epoch", None),
        ({"end_epoch": 2}, "end_epoch", 2),
        ({"disable_after_epoch_step": 40}, "end_step", 40),
        ({"disable_after_epoch_step": 40, "end_step": 30}, "end_step", 30),
        ({"max_num_samples": 7}, "max_num_samples", 7),
        ({"max_num_samples": 0}, "max_num_samples", None),
    ],
)
def test_values_are_read_as_simpletuner_reads_them(
    options: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(first_of(**options), field) == value


@pytest.mark.parametrize(
    ("backends", "config", "said"),
    [
        ([{**A, "probability": 0.5}], {},
         "probability (a): has no effect with one data backend to train on."),
        ([A], {"data_backend_sampling": "uniform"},
         "data_backend_sampling: has no effect with one data backend to train on."),
        ([A, B, {**HELD_OUT, "probability": 0.5, "end_step": 5}], {},
         "end_step (e): has no effect on held-out images."),
        ([{**A, "conditioning_data": "m"}, {**MASKS, "max_num_samples": 2}], {},
         "max_num_samples (m): has no effect on masks."),
        ([{**A, "disable_after_epoch_step": 5}, B], {"data_backend_sampling": "uniform"},
         "disable_after_epoch_step (a): has no effect with data_backend_sampling uniform."),
        ([{**A, "disable_after_epoch_step": 5}, B], {},
         ("disable_after_epoch_step (a): ends the backend after this step, as end_step does; its "
          "weight does not fall before.")),
    ],
)  # fmt: skip
def test_what_cannot_act_is_told(
    backends: list[dict[str, Any]], config: dict[str, Any], said: str
) -> None:
    assert said in notices_of(config, backends=backends)


def test_what_cannot_act_does_not_change_the_plan() -> None:
    assert identity_of({**A, "probability": 0.5}, data_backend_sampling="uniform") == identity_of(A)
    held_out = {**HELD_OUT, "probability": 0.5, "start_step": 3}
    assert identity_of(A, held_out) == identity_of(A, HELD_OUT)


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({"probability": 0}, "probability",
         ("Nothing would be drawn from this backend: set disabled to true to leave it out, or "
          "give a probability of at least 1e-06.")),
        ({"probability": -1}, "probability", "probability has to be at least 0, not -1."),
        ({"probability": "half"}, "probability", 'probability has to be a number, not "half".'),
        ({"start_step": 9, "end_step": 5}, "end_step",
         "The backend would end after step 5, before it starts at step 9."),
        ({"start_epoch": 3, "end_epoch": 2}, "end_epoch",
         "The backend would end after epoch 2, before it starts at epoch 3."),
        ({"max_num_samples": -1}, "max_num_samples",
         "max_num_samples has to be at least 0, not -1."),
    ],
)  # fmt: skip
def test_wrong_values_are_told_with_the_way_out(
    options: dict[str, Any], at: str, message: str
) -> None:
    found = problems_of(backends=[{**A, **options}, B], messages=True)

    assert found == [(f"/data_backends/0/{at}", message)]


def ends_and_starts(end: dict[str, Any], start: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**A, **end}, {**B, **start}]


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        (ends_and_starts({"start_step": 2}, {"start_epoch": 2}),
         ("No data backend is trained on at step 1: a starts at step 2; b starts with epoch 2. Let "
          "one of them start earlier or end later.")),
        (ends_and_starts({"end_step": 4}, {"start_step": 6}),
         ("No data backend is trained on at step 5: a ends after step 4; b starts at step 6. Let "
          "one of them start earlier or end later.")),
        (ends_and_starts({"end_step": 4}, {"start_step": 2, "end_step": 9}),
         ("No data backend is trained on at step 10: a ends after step 4; b starts at step 2 and "
          "ends after step 9. Let one of them start earlier or end later.")),
    ],
)  # fmt: skip
def test_a_step_without_a_backend_is_refused_before_the_data_is_read(
    backends: list[dict[str, Any]], message: str
) -> None:
    """Of a run of 10 steps."""
    assert problems_of(backends=backends, messages=True) == [("/data_backends", message)]


@pytest.mark.parametrize(
    "backends",
    [
        ends_and_starts({"end_step": 4}, {"start_step": 5}),
        ends_and_starts({"end_step": 10}, {"start_step": 11}),
        ends_and_starts({"end_step": 4}, {"start_epoch": 2}),  # known once the data is
    ],
)
def test_backends_may_take_turns(backends: list[dict[str, Any]]) -> None:
    assert len(identity_of(*backends).backends) == 2
