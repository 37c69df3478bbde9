"""Runs the check of a field twice: with the imported plan, and with that field reset."""

import pytest

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.observe import FieldIgnored
from tests.integration.plan_fields.registry import OBSERVED


def check_field(name: str, environment: Environment) -> None:
    """Assert that the check passes with the imported plan and raises FieldIgnored after the reset.

    In the second run only FieldIgnored counts, or an error that the check names in ``refuses``. Any
    other error fails the test, because it does not show that the field acts.
    """
    observed = OBSERVED[name]
    plan = environment.plan(observed.files)
    changed = observed.reset_in(plan)
    assert changed != plan
    observed.check(plan, environment)
    with pytest.raises((FieldIgnored, *observed.refuses)):
        observed.check(changed, environment)
