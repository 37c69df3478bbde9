"""Runs that are paused and resumed while real processes train them, and that stop at limits."""

import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from services.objects.open import open_store
from services.settings.env import Settings
from services.store import run_control
from services.store.database import Database
from tests.faults.proxied import ProxiedService, ServiceOn
from tests.faults.random import rows, stored
from tests.integration.trainer_supervisor_child import INTERVAL
from tests.integration.trainer_supervisor_host import TrainerHost, open_host
from tests.support.redis import RedisServer
from tests.support.scripted_fleet import ScriptedFleet, scripted_fleet
from tests.support.tenant import Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

STORM_STEPS = 120
STORM_S = 25.0
LIMIT_H = 0.001
LIMIT_S = LIMIT_H * 3600
LONG = {"max_train_steps": 2000, "checkpoint_step_interval": 1000}
"""A run that is paused before it stores a checkpoint of its own accord."""


@pytest.fixture(scope="module")
def service(service_on: ServiceOn) -> Iterator[ProxiedService]:
    with service_on(None) as service:
        yield service


@pytest.fixture(autouse=True)
def trainers_end(service: ProxiedService) -> Iterator[None]:
    yield
    service.stop_trainers()


def act(service: ProxiedService, run_id: str, action: str) -> Json:
    return service.tenant.post(f"/v1/runs/{run_id}:{action}", {})


def wait_paused(service: ProxiedService, run_id: str) -> Json:
    return service.tenant.wait_for(
        run_id, lambda run: run["status"] == "paused", deadline_s=60, what="the pause"
    )


def assert_equal_bit_for_bit(
    service: ProxiedService, run_id: str, unbroken: str, folder: Path
) -> None:
    """The run's adapter, and its last state with the optimizer's, are those of the unbroken run."""
    store = open_store(Settings.from_env(service.fleet.env))
    with service.connection() as conn:
        runs, folders = rows.runs(conn), rows.folders(conn)
    local, torn = stored.fetch_all(store, folders, folder)
    configs = {run_id: "same", unbroken: "same"}
    equal, compared, breaches = stored.differing(runs, folders, local, configs, {"same": unbroken})
    assert (torn, breaches) == ([], [])
    assert (equal, compared) == (1, 1)


@pytest.mark.parametrize("length", ["steps", "epochs"])
def test_paused_moved_and_resumed_it_equals_an_unbroken_run(
    service: ProxiedService, tmp_path: Path, length: str
) -> None:
    # An epoch of the two photographs has two batches.
    config = {"max_train_steps": 0, "num_train_epochs": 20} if length == "epochs" else {}
    service.start(f"trainer-1-{length}")
    unbroken = service.submit(**config)
    service.ended_once(unbroken)
    run_id = service.submit(**config)
    service.in_mid_run(run_id)
    act(service, run_id, "pause")
    resting = wait_paused(service, run_id)
    service.stop_trainers()
    service.start(f"trainer-2-{length}")
    act(service, run_id, "resume")
    first, second = service.ended_once(run_id)

    assert service.tenant.run(run_id)["max_steps"] == 40

    assert resting["checkpoint_step"] == resting["step"] < 40
    assert resting["status_reason"] is None
    assert (first["outcome"], first["lost_steps"]) == ("stopped", 0)
    assert second["from_step"] == resting["step"]
    assert service.holder(run_id) == f"trainer-2-{length}"
    assert_equal_bit_for_bit(service, run_id, unbroken, tmp_path)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_pauses_costs_no_step(
    service: ProxiedService, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    config = {"max_train_steps": STORM_STEPS, "seed": seed}
    service.start(f"trainer-a{seed}")
    unbroken = service.submit(**config)
    service.ended_once(unbroken)
    service.start(f"trainer-b{seed}")
    run_id = service.submit(**config)
    service.in_training(run_id)
    ends_s = time.monotonic() + STORM_S
    while time.monotonic() < ends_s:
        action = draw.choice(("pause", "resume"))
        answer = service.tenant.http.post(f"/v1/runs/{run_id}:{action}", json={})
        if answer.status_code == 409:
            break  # it was quicker
        assert answer.status_code == 202, answer.text
        time.sleep(draw.choice((0.0, 0.1, draw.uniform(0, 3))))  # the storm's own rhythm
    answer = service.tenant.http.post(f"/v1/runs/{run_id}:resume", json={})
    assert answer.status_code in (202, 409), answer.text  # or it has ended
    attempts = service.ended_once(run_id)

    assert len(attempts) > 1
    for before, after in pairwise(attempts):
        assert before["outcome"] == "stopped"
        assert before["last_step"] - after["from_step"] <= 1
    assert_equal_bit_for_bit(service, run_id, unbroken, tmp_path)


def test_at_its_limit_a_run_stores_a_checkpoint_and_goes_on_when_it_is_raised(
    service: ProxiedService,
) -> None:
    service.start("trainer-3")
    run_id = service.submit(**LONG)
    service.tenant.http.patch(f"/v1/runs/{run_id}", json={"max_gpu_hours": LIMIT_H})
    resting = wait_paused(service, run_id)
    refused = service.tenant.http.post(f"/v1/runs/{run_id}:resume", json={})
    raised = service.tenant.http.patch(f"/v1/runs/{run_id}", json={"max_gpu_hours": 2 * LIMIT_H})
    act(service, run_id, "resume")
    service.tenant.wait_for(
        run_id, lambda run: run["step"] > resting["step"], deadline_s=60, what="another step"
    )
    again = wait_paused(service, run_id)

    assert resting["status_reason"]["code"] == "gpu_hours_limit_reached"
    assert resting["checkpoint_step"] == resting["step"] > 0
    step_s = LIMIT_S / resting["step"]
    print(f"charged {resting['charged_s']:.3f} s of {LIMIT_S:g} s, {step_s:.3f} s a step")
    assert LIMIT_S <= resting["charged_s"] <= LIMIT_S + 1.0
    assert (refused.status_code, refused.json()["code"]) == (409, "limit_reached")
    assert refused.json()["errors"][0]["code"] == "gpu_hours_limit_reached"
    assert raised.json()["status"] == "paused"
    assert 2 * LIMIT_S <= again["charged_s"] <= 2 * LIMIT_S + 1.0
    act(service, run_id, "cancel")


def test_at_its_deadline_a_run_that_trains_stores_a_checkpoint(service: ProxiedService) -> None:
    service.start("trainer-4")
    run_id = service.submit(**LONG)
    service.in_training(run_id)
    deadline = datetime.now(UTC) + timedelta(seconds=2)
    changed = service.tenant.http.patch(
        f"/v1/runs/{run_id}", json={"deadline": deadline.isoformat()}
    )
    resting = wait_paused(service, run_id)
    late_s = (datetime.fromisoformat(resting["updated_at"]) - deadline).total_seconds()

    assert changed.status_code == 200
    assert resting["status_reason"]["code"] == "deadline_reached"
    assert resting["checkpoint_step"] == resting["step"] > 0
    assert 0 <= late_s < 10
    act(service, run_id, "cancel")


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


@pytest.fixture
def fleet(host: TrainerHost, redis_server: RedisServer) -> Iterator[ScriptedFleet]:
    with scripted_fleet(host, redis_server) as fleet:
        fleet.start("dispatcher")
        yield fleet


def test_a_trainer_that_is_killed_while_it_pauses(
    host: TrainerHost, fleet: ScriptedFleet, database: Database
) -> None:
    """Before the last checkpoint is stored: the run is paused at the one before."""
    fleet.start_trainer("trainer-1", "endless", FAULT_AT="folder.before_manifest@2=stall")
    host.wait_for_step(INTERVAL + 1)
    with database.transaction() as conn:
        asked = run_control.pause(conn, host.tenant_id, host.run_id)
    assert asked.status == "pausing"
    wait_until(lambda: not host.child_pids(), what=lambda: fleet.tail("trainer-1"))
    assert fleet.processes["trainer-1"].poll() is None  # it uploads
    fleet.signal("trainer-1", signal.SIGKILL)
    fleet.wait("trainer-1")
    fleet.start_trainer("trainer-2", "finish")
    wait_until(lambda: host.run()["status"] == "paused", what=lambda: fleet.tail("dispatcher"))
    resting = host.run()
    with database.transaction() as conn:
        run_control.resume(conn, host.tenant_id, host.run_id)
    wait_until(lambda: host.run()["status"] == "succeeded", what=lambda: fleet.tail("trainer-2"))

    assert resting["checkpoint_step"] == INTERVAL
    assert [row[:2] for row in host.attempts()] == [("lost", 0), ("finished", INTERVAL)]


def test_it_is_resumed_by_a_trainer_that_is_killed(
    host: TrainerHost, fleet: ScriptedFleet, database: Database
) -> None:
    fleet.start_trainer("trainer-1", "endless")
    host.wait_for_step(INTERVAL + 1)
    with database.transaction() as conn:
        run_control.pause(conn, host.tenant_id, host.run_id)
    wait_until(lambda: host.run()["status"] == "paused", what=lambda: fleet.tail("trainer-1"))
    resting = host.run()
    with database.transaction() as conn:
        run_control.resume(conn, host.tenant_id, host.run_id)
    wait_until(lambda: len(host.attempts()) == 2, what=lambda: fleet.tail("trainer-1"))
    fleet.signal("trainer-1", signal.SIGKILL)
    fleet.wait("trainer-1")
    fleet.start_trainer("trainer-2", "finish")
    wait_until(lambda: host.run()["status"] == "succeeded", what=lambda: fleet.tail("trainer-2"))

    assert resting["checkpoint_step"] == resting["step"]
    outcomes = [row[0] for row in host.attempts()]
    assert outcomes == ["stopped", "lost", "finished"]
    assert host.attempts()[1][1] == resting["step"]
