"""Mixing: which backend each batch is of, when a backend starts and ends, and how much of it."""

from collections import Counter
from typing import Any, Final

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import CATS, DOGS, Files
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from trainer_core.config.plan import Plan

GROUP: Final = Group()
_BACKEND: Final = "identity.backends[]"


def _two(
    cats: dict[str, Any] | None = None, dogs: dict[str, Any] | None = None, **config: Any
) -> Files:
    """Four cats and one dog, which is used 40 times an epoch where nothing else is said."""
    return Files(
        config={"max_train_steps": 100, **config},
        cats=cats or {},
        others=[{**DOGS, "repeats": 39, **(dogs or {})}],
    )


def _drawn(plan: Plan, environment: Environment, first: int, end: int) -> Counter[str]:
    """Backend → samples that micro-batches first…end−1 draw from it."""
    index, sampler = environment.index(plan), environment.sampler(plan)
    batches = (sampler.micro_batch(i) for i in range(first, end))
    return Counter(index.samples[sample].backend for batch in batches for sample in batch.samples)


@GROUP.observes(
    f"{_BACKEND}.probability",
    files=_two({"repeats": 9}, {"probability": 3}, data_backend_sampling="uniform"),
    reset=1.0,
    at=1,
)
def dogs_are_drawn_three_times_as_often(plan: Plan, environment: Environment) -> None:
    # 40 dogs are used up after 40 / 3 cats.
    expect(_drawn(plan, environment, 0, 53), {"cats": 13, "dogs": 40})


@GROUP.observes(
    "identity.data_backend_sampling",
    files=_two({"repeats": 9}, {"repeats": 9}, data_backend_sampling="uniform"),
    reset="auto-weighting",
)
def both_are_drawn_alike_though_there_are_more_cats(plan: Plan, environment: Environment) -> None:
    expect(_drawn(plan, environment, 0, 20), {"cats": 10, "dogs": 10})


@GROUP.observes(f"{_BACKEND}.start_step", files=_two(dogs={"start_step": 30}), reset=1, at=1)
def no_dog_is_drawn_before_its_first_step(plan: Plan, environment: Environment) -> None:
    expect(_drawn(plan, environment, 0, 29), {"cats": 29})
    expect(_drawn(plan, environment, 29, 73), {"cats": 4, "dogs": 40})


@GROUP.observes(f"{_BACKEND}.start_epoch", files=_two(dogs={"start_epoch": 6}), reset=1, at=1)
def no_dog_is_drawn_before_its_first_epoch(plan: Plan, environment: Environment) -> None:
    expect(_drawn(plan, environment, 0, 5 * 4), {"cats": 20})
    expect(_drawn(plan, environment, 20, 64), {"cats": 4, "dogs": 40})


@GROUP.observes(f"{_BACKEND}.end_step", files=_two({"end_step": 5}), reset=None, at=0)
def no_cat_is_drawn_after_its_last_step(plan: Plan, environment: Environment) -> None:
    expect(_drawn(plan, environment, 5, 100), {"dogs": 95})


@GROUP.observes(f"{_BACKEND}.end_epoch", files=_two({"end_epoch": 1}), reset=None, at=0)
def no_cat_is_drawn_after_its_last_epoch(plan: Plan, environment: Environment) -> None:
    expect(_drawn(plan, environment, 0, 44), {"cats": 4, "dogs": 40})
    expect(_drawn(plan, environment, 44, 100), {"dogs": 56})


@GROUP.observes(f"{_BACKEND}.max_num_samples", files=Files(cats={"max_num_samples": 2}), reset=3)
def two_images_are_chosen(plan: Plan, environment: Environment) -> None:
    expect(len(environment.index(plan).samples), 2)


@GROUP.observes(
    "identity.sample_order",
    files=Files(config={"train_batch_size": 2}, others=[{**CATS, "id": "more-cats", "repeats": 2}]),
    reset=1,
)
def a_batch_is_of_one_backend(plan: Plan, environment: Environment) -> None:
    for number in range(12):
        expect(len(_drawn(plan, environment, number, number + 1)), 1)
