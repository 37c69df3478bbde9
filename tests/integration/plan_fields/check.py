"""Both runs of one field's check: with the plan as imported, and with that field reset."""

import pytest

from tests.integration.plan_fields.observe import FieldIgnored
from tests.integration.plan_fields.registry import OBSERVED
from tests.integration.plan_fields.world import World


def check_field(name: str, world: World) -> None:
    """The check passes with the plan's own value and reports another value as ignored.

    Only FieldIgnored (or an error that the check names) counts for the second run: a check that
    breaks in any other way proves nothing and fails the test.
    """
    observed = OBSERVED[name]
    plan = world.plan(observed.files)
    changed = observed.reset_in(plan)
    assert changed != plan
    observed.check(plan, world)
    with pytest.raises((FieldIgnored, *observed.refuses)):
        observed.check(changed, world)
