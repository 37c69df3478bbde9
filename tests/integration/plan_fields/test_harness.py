"""``check_field`` itself: what it accepts as a noticed reset, and what fails it."""

import pytest

from tests.integration.plan_fields.check import check_field
from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.observe import FieldIgnored, expect
from tests.integration.plan_fields.registry import OBSERVED, Group
from trainer_core.config.plan import Plan


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """A group whose checks are unregistered after the test."""
    for name in list(OBSERVED):
        monkeypatch.delitem(OBSERVED, name)
    return Group()


def test_another_error_after_the_reset_fails_the_test(
    group: Group, environment: Environment
) -> None:
    @group.observes("identity.seed", reset=43)
    def raises_another_error(plan: Plan, environment: Environment) -> None:
        assert plan.identity.seed == 42

    with pytest.raises(AssertionError):
        check_field("identity.seed", environment)


def test_a_field_without_effect_fails_the_test(group: Group, environment: Environment) -> None:
    @group.observes("identity.seed", reset=43)
    def ignores_the_seed(plan: Plan, environment: Environment) -> None:
        expect(environment.base.name, "hidream-tiny")

    with pytest.raises(pytest.fail.Exception):
        check_field("identity.seed", environment)


def test_a_field_with_an_effect_passes(group: Group, environment: Environment) -> None:
    @group.observes("identity.seed", reset=43)
    def observes_the_seed(plan: Plan, environment: Environment) -> None:
        expect(plan.identity.seed, 42)

    check_field("identity.seed", environment)

    with pytest.raises(FieldIgnored):
        expect(1, 2)
