"""Every field of the plan that says what is trained and how acts, and only its value passes."""

import pytest

from tests.integration.plan_fields import fields_adapter, fields_training
from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.world import World


@pytest.mark.parametrize("field", [*fields_adapter.GROUP.names, *fields_training.GROUP.names])
def test_the_field_acts(field: str, world: World) -> None:
    check_field(field, world)
