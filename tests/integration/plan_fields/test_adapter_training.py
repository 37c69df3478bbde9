"""Every field of the adapter and of the training acts; a reset is noticed."""

import pytest

from tests.integration.plan_fields import fields_adapter, fields_training
from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.environment import Environment


@pytest.mark.parametrize("field", [*fields_adapter.GROUP.names, *fields_training.GROUP.names])
def test_the_field_acts(field: str, environment: Environment) -> None:
    check_field(field, environment)
