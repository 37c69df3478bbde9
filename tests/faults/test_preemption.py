"""F26, F27: trainers are told to stop: twice, all at once, again and again, or killed meanwhile."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_child import INTERVAL
from tests.integration.trainer_supervisor_host import TrainerHost, open_host
from tests.support.redis import RedisServer
from tests.support.scripted_fleet import ScriptedFleet, scripted_fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

ROUNDS = 5


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


@pytest.fixture
def fleet(host: TrainerHost, redis_server: RedisServer) -> Iterator[ScriptedFleet]:
    with scripted_fleet(host, redis_server) as fleet:
        fleet.start("dispatcher")
        yield fleet


def steps_of(host: TrainerHost) -> list[tuple[int, int]]:
    """Where each attempt began and how far it came."""
    rows = host.ask(
        "SELECT from_step, last_step FROM attempts WHERE run_id = %(run_id)s ORDER BY fence"
    )
    return [(from_step, last_step) for from_step, last_step in rows]


def assert_lost_at_most(steps: int, host: TrainerHost) -> None:
    attempts = steps_of(host)
    for (_, last_step), (from_step, _) in pairwise(attempts):
        assert 0 <= last_step - from_step <= steps, attempts


def test_all_trainers_are_preempted_at_once_five_times(
    host: TrainerHost, fleet: ScriptedFleet
) -> None:
    runs = [host, host.another_run()]
    for turn in range(ROUNDS):
        trainers = [f"trainer-{2 * turn + n}" for n in (1, 2)]
        for name in trainers:
            fleet.start_trainer(name, "endless")
        for run in runs:
            wait_until(lambda: len(run.attempts()) == turn + 1, what="a trainer")  # noqa: B023
            run.wait_for_step(run.run()["step"] + 2)
        for name in trainers:
            fleet.signal(name, signal.SIGTERM)
        assert [fleet.wait(name) for name in trainers] == [0, 0]
    for run in runs:
        assert run.run()["status"] == "queued"
        assert [row[0] for row in run.attempts()] == ["stopped"] * ROUNDS
        assert_lost_at_most(1, run)
    spent = host.ask("SELECT DISTINCT attempts_without_progress, infra_failures FROM runs")
    assert spent == [(0, 0)]
    fleet.start_trainer("trainer-last", "finish")
    for run in runs:
        wait_until(lambda: run.run()["status"] == "succeeded", what="the end")  # noqa: B023


def test_a_second_sigterm_changes_nothing(host: TrainerHost, fleet: ScriptedFleet) -> None:
    fleet.start_trainer("trainer-1", "endless")
    host.wait_for_step(INTERVAL + 1)

    fleet.signal("trainer-1", signal.SIGTERM)
    wait_until(lambda: "child_requested" in fleet.tail("trainer-1"), what="the first one")
    if fleet.processes["trainer-1"].poll() is None:
        fleet.processes["trainer-1"].send_signal(signal.SIGTERM)

    assert fleet.wait("trainer-1") == 0, fleet.tail("trainer-1")
    assert [row[0] for row in host.attempts()] == ["stopped"]
    run = host.run()
    assert (run["status"], run["checkpoint_step"]) == ("queued", run["step"])


def test_killed_before_its_last_checkpoint_is_stored(
    host: TrainerHost, fleet: ScriptedFleet
) -> None:
    fleet.start_trainer("trainer-1", "endless", FAULT_AT="folder.before_manifest@2=stall")
    host.wait_for_step(INTERVAL + 1)

    fleet.signal("trainer-1", signal.SIGTERM)
    wait_until(lambda: not host.child_pids(), what=lambda: fleet.tail("trainer-1"))
    assert fleet.processes["trainer-1"].poll() is None  # it uploads
    fleet.signal("trainer-1", signal.SIGKILL)
    fleet.wait("trainer-1")
    fleet.start_trainer("trainer-2", "finish")

    wait_until(lambda: host.run()["status"] == "succeeded", what=lambda: fleet.tail("trainer-2"))
    assert [row[:2] for row in host.attempts()] == [("lost", 0), ("finished", INTERVAL)]
    assert_lost_at_most(2 * INTERVAL, host)
