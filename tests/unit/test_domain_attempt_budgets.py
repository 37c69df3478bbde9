"""Which failures are the run's own, and when a run has used up its attempts."""

import pytest

from services.domain.attempt_budgets import DEATHS, FailedAttempt, Spent, spent
from trainer_core.errors import Category

INFRA = (
    "base_model_damaged",
    "base_model_missing",
    "base_models_unreadable",
    "checkpoint_corrupt",
    "database_busy",
    "object_store_down",
    "object_store_refused",
    "output_changed",
    "shard_corrupt",
    "shard_missing",
    "too_many_open_files",
    "unexplained",
    "worker_disk_failed",
    "worker_disk_full",
)
OWN = (
    ("internal_error", Category.PLATFORM),
    ("bad_event", Category.PLATFORM),
    ("out_of_memory", Category.USER),
    ("non_finite_loss", Category.USER),
)


def attempt(
    code: str, step: int = 0, node: str = "a", category: Category = Category.INFRA
) -> FailedAttempt:
    return FailedAttempt(code=code, category=category, last_step=step, node=node)


@pytest.mark.parametrize("code", INFRA)
def test_faults_of_the_service_are_never_the_runs_own(code: str) -> None:
    assert spent([attempt(code)] * 7) == Spent(own=0, infra=7, own_nodes=0)


def test_a_plan_that_waits_for_a_newer_worker_uses_up_no_own_attempt() -> None:
    other = attempt("plan_of_other_version", category=Category.PLATFORM)
    assert spent([other] * 3).own == 0


@pytest.mark.parametrize(("code", "category"), OWN)
def test_a_runs_own_failures_count_at_any_step(code: str, category: Category) -> None:
    failures = [attempt(code, step, category=category) for step in (0, 40, 90)]
    assert spent(failures) == Spent(own=3, infra=0, own_nodes=1)


@pytest.mark.parametrize("code", sorted(DEATHS))
def test_a_death_is_the_runs_own_only_where_it_is_repeated_at_its_step(code: str) -> None:
    assert spent([attempt(code, 5)]) == Spent(own=0, infra=1, own_nodes=0)
    assert spent([attempt(code, 5), attempt(code, 90)]) == Spent(own=0, infra=2, own_nodes=0)
    assert spent([attempt(code, 5), attempt(code, 90), attempt(code, 6, "b")]) == Spent(
        own=2, infra=1, own_nodes=2
    )


def test_workers_that_die_at_random_steps_do_not_use_up_the_runs_attempts() -> None:
    steps = (3, 97, 41, 12, 66, 80, 25, 54, 33, 71, 19, 88)
    assert spent([attempt("worker_lost", step) for step in steps]).own == 0


def exhausts(counted: Spent, *, nodes: int) -> bool:
    return counted.exhausts(max_attempts=3, max_infra_failures=8, nodes=nodes)


def test_a_run_is_exhausted_by_its_own_failures_on_two_machines() -> None:
    assert not exhausts(Spent(own=2, infra=5, own_nodes=2), nodes=2)
    assert exhausts(Spent(own=3, infra=0, own_nodes=2), nodes=2)


def test_one_broken_machine_of_two_does_not_exhaust_a_run() -> None:
    assert not exhausts(Spent(own=3, infra=0, own_nodes=1), nodes=2)
    assert exhausts(Spent(own=8, infra=0, own_nodes=1), nodes=2)


@pytest.mark.parametrize("nodes", [0, 1])
def test_a_class_of_one_machine_is_enough_where_there_is_no_other(nodes: int) -> None:
    assert exhausts(Spent(own=3, infra=0, own_nodes=1), nodes=nodes)


def test_faults_of_the_service_end_a_run_after_many() -> None:
    assert not exhausts(Spent(own=0, infra=7, own_nodes=0), nodes=2)
    assert exhausts(Spent(own=0, infra=8, own_nodes=0), nodes=2)
