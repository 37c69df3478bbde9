"""Every field of the data, the objective and the operation acts; a reset is noticed."""

import pytest

from tests.integration.plan_fields import (
    fields_data,
    fields_evaluation,
    fields_mixing,
    fields_objective,
    fields_operation,
    fields_pictures,
)
from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.environment import Environment

_NAMES = [
    *fields_data.GROUP.names,
    *fields_evaluation.GROUP.names,
    *fields_mixing.GROUP.names,
    *fields_objective.GROUP.names,
    *fields_operation.GROUP.names,
    *fields_pictures.GROUP.names,
]


@pytest.mark.parametrize("field", _NAMES)
def test_the_field_acts(field: str, environment: Environment) -> None:
    check_field(field, environment)
