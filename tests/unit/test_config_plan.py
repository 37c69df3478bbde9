"""Plans that older versions stored are still read."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer_core.config.plan import Plan

STORED: dict[str, Any] = json.loads(Path(__file__).with_name("plan_of_60c19c9.json").read_bytes())
"""A plan that commit 60c19c9 wrote, and the digest that it gave the plan's identity."""


def test_a_plan_with_deferred_options_still_loads() -> None:
    assert STORED["plan"]["deferred"]["validation_step_interval"] == 100

    plan = Plan.model_validate(STORED["plan"])

    assert plan.identity_digest() == STORED["identity_digest"]
    assert plan.operation.sample_prompt == "a cat"


def test_everything_but_the_deferred_options_is_kept() -> None:
    plan = Plan.model_validate(STORED["plan"])

    written = plan.model_dump(mode="json")

    # A plan without the field ran without 8-bit products.
    assert written["identity"]["precision"].pop("matmul") == "no_change"
    assert written["operation"].pop("deterministic") is False
    assert written == {k: v for k, v in STORED["plan"].items() if k != "deferred"}
    assert Plan.model_validate_json(json.dumps(STORED["plan"])) == plan


def test_another_unknown_field_is_still_an_error() -> None:
    with pytest.raises(ValidationError, match="postponed"):
        Plan.model_validate({**STORED["plan"], "postponed": {}})
