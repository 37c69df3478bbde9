"""What counts as a field that was ignored, and what does not."""

import pytest

from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.observe import FieldIgnored, expect
from tests.integration.plan_fields.registry import OBSERVED, Group
from tests.integration.plan_fields.world import World
from trainer_core.config.plan import Plan


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """A group whose checks are forgotten after the test."""
    for name in list(OBSERVED):
        monkeypatch.delitem(OBSERVED, name)
    return Group()


def test_a_check_that_breaks_after_the_reset_fails_the_test(group: Group, world: World) -> None:
    @group.observes("identity.seed", reset=43)
    def breaks(plan: Plan, world: World) -> None:
        assert plan.identity.seed == 42

    with pytest.raises(AssertionError):
        check_field("identity.seed", world)


def test_a_field_that_nothing_acts_on_fails_the_test(group: Group, world: World) -> None:
    @group.observes("identity.seed", reset=43)
    def sees_nothing(plan: Plan, world: World) -> None:
        expect(world.base.name, "hidream-tiny")

    with pytest.raises(pytest.fail.Exception):
        check_field("identity.seed", world)


def test_a_field_that_is_acted_on_passes(group: Group, world: World) -> None:
    @group.observes("identity.seed", reset=43)
    def sees_the_seed(plan: Plan, world: World) -> None:
        expect(plan.identity.seed, 42)

    check_field("identity.seed", world)

    with pytest.raises(FieldIgnored):
        expect(1, 2)
