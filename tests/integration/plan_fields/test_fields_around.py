"""Every other field of the plan acts, and only its value passes: data, objective, operation."""

import pytest

from tests.integration.plan_fields import fields_data, fields_objective, fields_operation
from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.world import World

_NAMES = [
    *fields_data.GROUP.names,
    *fields_objective.GROUP.names,
    *fields_operation.GROUP.names,
]


@pytest.mark.parametrize("field", _NAMES)
def test_the_field_acts(field: str, world: World) -> None:
    check_field(field, world)
