"""Every field of the plan has a check, and every check a field."""

from tests.integration.plan_fields import (
    fields_adapter,
    fields_data,
    fields_evaluation,
    fields_mixing,
    fields_objective,
    fields_operation,
    fields_pictures,
    fields_training,
)
from tests.integration.plan_fields.registry import EXEMPT, OBSERVED, leaf_fields
from trainer_core.config.plan import Plan

MODULES = (
    fields_adapter,
    fields_data,
    fields_evaluation,
    fields_mixing,
    fields_objective,
    fields_operation,
    fields_pictures,
    fields_training,
)


def test_every_field_has_one_check_and_every_check_a_field() -> None:
    leaves = list(leaf_fields(Plan))

    assert len(leaves) == len(set(leaves)) > 90
    assert sorted(leaves) == sorted([*OBSERVED, *EXEMPT])


def test_every_check_is_run_once() -> None:
    names = [name for module in MODULES for name in module.GROUP.names]

    assert sorted(names) == sorted(OBSERVED)
