"""A trainer or its training process is killed in mid-run: the run resumes and ends exactly once."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support.fleet import Fleet, children_of, command_of, training_children
from tests.support.service import small_photos, small_run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

INTERVAL = 5
STEPS = 40


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    return fleet


@pytest.fixture(scope="module")
def run_request(tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Json:
    photos = small_photos(tmp_path_factory.mktemp("home") / "photos")
    return small_run_request(
        {"photos": tenant.push_folder(photos)},
        max_train_steps=STEPS,
        checkpoint_step_interval=INTERVAL,
    )


@pytest.fixture(autouse=True)
def nothing_left_behind(fleet: Fleet) -> Iterator[None]:
    yield
    wait_until(
        lambda: not training_children(fleet.home) or None,
        deadline_s=30,
        what="every training process to be gone",
    )


def trainer_of(fleet: Fleet) -> str:
    """The trainer that was started last: each test ends the one before, or none."""
    return max(name for name in fleet.processes if name.startswith("trainer-"))


def start_next(fleet: Fleet) -> None:
    number = int(trainer_of(fleet).removeprefix("trainer-"))
    fleet.start(f"trainer-{number + 1}")


def child_of(fleet: Fleet, name: str) -> int:
    """Pid of the training process under this trainer."""
    (pid,) = [p for p in children_of(fleet.processes[name].pid) if " train --job " in command_of(p)]
    return pid


def in_mid_run(tenant: Tenant, run_id: str) -> Json:
    """Wait until the run has a committed checkpoint and has trained beyond it, far from its end."""
    return tenant.wait_for(
        run_id,
        lambda run: run["checkpoint_step"] >= INTERVAL and run["step"] > run["checkpoint_step"],
        deadline_s=180,
        what="a step beyond the first checkpoint",
    )


def assert_ended_once(tenant: Tenant, run_id: str, *, attempts: int) -> list[Json]:
    run = tenant.wait_over(run_id, deadline_s=240)
    assert run["status"] == "succeeded", run["status_reason"]
    assert run["step"] == run["max_steps"]
    assert len(tenant.events(run_id, "run.succeeded")) == 1
    assert len(tenant.get(f"/v1/publications?run_id={run_id}")["data"]) == 1
    attempts_made = sorted(run["attempts"], key=lambda a: a["fence"])
    assert [a["fence"] for a in attempts_made] == list(range(1, attempts + 1))
    assert attempts_made[-1]["outcome"] == "finished"
    return attempts_made


@pytest.mark.deep
def test_sigkill_of_the_supervisor_costs_at_most_one_interval(
    fleet: Fleet, tenant: Tenant, run_request: Json
) -> None:
    run_id = tenant.submit(run_request)
    before = in_mid_run(tenant, run_id)
    trainer = trainer_of(fleet)
    orphan = child_of(fleet, trainer)

    fleet.signal(trainer, signal.SIGKILL)
    assert fleet.wait(trainer) == -signal.SIGKILL
    wait_until(
        lambda: orphan not in training_children(fleet.home) or None,
        deadline_s=10,
        what="the orphan to exit",
    )
    start_next(fleet)

    first, second = assert_ended_once(tenant, run_id, attempts=2)
    assert first["outcome"] == "lost"
    assert second["from_step"] >= before["checkpoint_step"] >= INTERVAL
    steps_lost = first["last_step"] - second["from_step"]
    assert 0 <= steps_lost <= INTERVAL


def test_sigkill_of_the_child_costs_at_most_one_interval(
    fleet: Fleet, tenant: Tenant, run_request: Json
) -> None:
    run_id = tenant.submit(run_request)
    before = in_mid_run(tenant, run_id)

    os.kill(child_of(fleet, trainer_of(fleet)), signal.SIGKILL)

    first, second = assert_ended_once(tenant, run_id, attempts=2)
    assert first["outcome"] == "failed"
    assert first["reason"]["code"] == "child_died"
    assert second["from_step"] >= before["checkpoint_step"]
    assert 0 <= first["last_step"] - second["from_step"] <= INTERVAL


def test_sigterm_costs_at_most_one_step(fleet: Fleet, tenant: Tenant, run_request: Json) -> None:
    run_id = tenant.submit(run_request)
    in_mid_run(tenant, run_id)
    trainer = trainer_of(fleet)

    fleet.signal(trainer, signal.SIGTERM)
    start_next(fleet)
    assert fleet.wait(trainer, deadline_s=90) == 0

    first, second = assert_ended_once(tenant, run_id, attempts=2)
    assert first["outcome"] == "stopped"
    assert 0 <= first["last_step"] - second["from_step"] <= 1


@pytest.mark.deep
def test_a_frozen_holder_loses_its_lease_and_stops(
    fleet: Fleet, tenant: Tenant, run_request: Json
) -> None:
    run_id = tenant.submit(run_request)
    in_mid_run(tenant, run_id)
    trainer = trainer_of(fleet)
    frozen_child = child_of(fleet, trainer)

    fleet.signal(trainer, signal.SIGSTOP)
    start_next(fleet)
    tenant.wait_for(
        run_id, lambda run: len(run["attempts"]) == 2, deadline_s=60, what="the second attempt"
    )
    fleet.signal(trainer, signal.SIGCONT)

    wait_until(
        lambda: frozen_child not in training_children(fleet.home) or None,
        deadline_s=20,
        what="the fenced-off child to be ended",
    )
    first, second = assert_ended_once(tenant, run_id, attempts=2)
    assert first["outcome"] == "lost"
    assert second["from_step"] >= INTERVAL
