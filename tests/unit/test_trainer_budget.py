"""The holder's count of what may still be charged, between two renewals."""

from services.trainer.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_only_charged_stages_use_it_up() -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    left = []
    stages = ("loading", "training", "checkpointing", "evaluating", "sampling", "paused", None)
    for stage in stages:
        budget.enter(stage)
        clock.now_s += 3
        left.append(budget.left_s)

    assert left == [10, 7, 7, 4, 1, 1, 1]


def test_a_renewal_has_the_last_word() -> None:
    clock = Clock()
    budget = Budget(5.0, clock)
    budget.enter("training")
    clock.now_s += 8
    overdrawn = budget.left_s
    budget.set(2.0)
    clock.now_s += 1
    after = budget.left_s
    budget.set(None)
    clock.now_s += 1000

    assert (overdrawn, after, budget.left_s) == (-3, 1, None)


def test_a_limit_that_is_set_while_it_trains_counts_from_then_on() -> None:
    clock = Clock()
    budget = Budget(None, clock)
    budget.enter("training")
    clock.now_s += 100
    budget.set(4.0)
    clock.now_s += 3

    assert budget.left_s == 1
