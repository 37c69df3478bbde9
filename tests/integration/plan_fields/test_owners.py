"""No field of the plan without an owner, no owner that knows nothing of its field."""

import importlib
import inspect
import re

import pytest

from tests.integration.plan_fields import (
    fields_adapter,
    fields_data,
    fields_objective,
    fields_operation,
    fields_training,
)
from tests.integration.plan_fields.registry import EXEMPT, OWNED, leaf_fields
from trainer_core.config.plan import Plan

GROUPS = (fields_adapter, fields_data, fields_objective, fields_operation, fields_training)


def test_every_field_has_an_owner_and_every_owner_a_field() -> None:
    leaves = list(leaf_fields(Plan))

    assert len(leaves) == len(set(leaves)) > 90
    assert sorted(leaves) == sorted([*OWNED, *EXEMPT])


def test_every_owned_field_is_tested_once() -> None:
    assert sorted(name for group in GROUPS for name in group.GROUP.names) == sorted(OWNED)


@pytest.mark.parametrize("field", OWNED)
def test_the_owner_names_its_field(field: str) -> None:
    source = inspect.getsource(importlib.import_module(OWNED[field].by))

    word = re.sub(r"\[\d*\]$", "", field.rpartition(".")[2])
    assert re.search(rf"\b{word}\b", source)
