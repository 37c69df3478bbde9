"""The two runs of one field's check: as imported, and with that field reset behind the importer."""

import pytest

from tests.integration.plan_fields.registry import OWNED
from tests.integration.plan_fields.world import World


def check_field(name: str, world: World) -> None:
    owned = OWNED[name]
    plan = world.plan(owned.files)
    changed = owned.reset_in(plan)
    assert changed != plan
    owned.check(plan, world)
    with pytest.raises((AssertionError, *owned.refuses)):
        owned.check(changed, world)
