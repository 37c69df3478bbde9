"""Which model scores the pictures of a run, by the options of SimpleTuner's files."""

from typing import Any, Final

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Pictures

EVERY_2: dict[str, Any] = {"validation_step_interval": 2}
MODEL = "pretrained_evaluation_model_name_or_path"
CLIP: dict[str, Any] = {**EVERY_2, "evaluation_type": "clip", MODEL: "models/clip"}


LOCAL: Final[dict[str, Any]] = {
    "backends": [{"id": "cats", "caption_strategy": "filename", "instance_data_dir": "cats"}],
    "source": "local",
}


def pictures_of(config: dict[str, Any], source: str = "local") -> Pictures:
    written = {"output_dir": "out", **config} if source == "local" else config
    pictures = import_small(written, **(LOCAL if source == "local" else {})).plan.operation.pictures
    assert pictures is not None
    return pictures


@pytest.mark.parametrize("source", ["local", "http"])
def test_the_model_is_in_the_plan(source: str) -> None:
    assert pictures_of(CLIP, source).clip_model == "models/clip"
    assert "clip_model" not in pictures_of(EVERY_2, source).model_dump(mode="json")


@pytest.mark.parametrize("model", [{}, {MODEL: ""}, {MODEL: " "}, {MODEL: None}])
def test_without_a_model_nothing_is_scored_and_that_is_told(model: dict[str, Any]) -> None:
    written = {**EVERY_2, "evaluation_type": "clip", **model}

    assert pictures_of(written).clip_model is None
    told = f"evaluation_type: no CLIP score is computed without {MODEL}, which names"
    assert any(each.startswith(told) for each in notices_of(written, **LOCAL))


def test_options_without_effect_are_told() -> None:
    assert f"{MODEL}: has no effect without evaluation_type clip." in notices_of({MODEL: "a"})
    without = {name: value for name, value in CLIP.items() if name not in EVERY_2}
    notices = notices_of(without, **LOCAL)
    where = "has no effect where no pictures are made while it trains."
    assert {f"evaluation_type: {where}", f"{MODEL}: {where}"} <= set(notices)


@pytest.mark.parametrize("written", ["none", "None", None, ""])
def test_none_is_no_score(written: str | None) -> None:
    assert pictures_of({**EVERY_2, "evaluation_type": written}).clip_model is None


def test_another_type_is_an_error() -> None:
    assert problems_of({"evaluation_type": "fid"}) == [("/config/evaluation_type", "bad_value")]
