"""F17, F18: the database crashes, is away for longer than a lease, or is cut off from a trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.proxied import INTERVAL, LEASE_S, ProxiedService, ServiceOn
from tests.support.postgres import PostgresServer
from tests.support.tenant import Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

WITHOUT_CHECKPOINTS = {"checkpoint_step_interval": 10_000, "max_train_steps": 200}
"""A run that never waits for a commit."""


@pytest.fixture(scope="module")
def service(service_on: ServiceOn) -> Iterator[ProxiedService]:
    with service_on(None) as service:
        yield service


@pytest.fixture(autouse=True)
def no_trainer_stays(service: ProxiedService) -> Iterator[None]:
    yield
    for proxy in service.databases.values():
        proxy.set("ok")
    service.stop_trainers()


@contextmanager
def crashed(server: PostgresServer) -> Iterator[None]:
    """The server is away in this block, and then starts from its log."""
    server.stop("immediate")
    try:
        yield
    finally:
        server.start()


def is_paused(events: list[Json]) -> bool:
    return [event["stage"] for event in events if event["event"] == "stage"][-1:] == ["paused"]


def steps_of(events: list[Json]) -> list[int]:
    return [event["step"] for event in events if event["event"] == "step"]


def ends_of(service: ProxiedService, trainer: str, run_id: str) -> list[str]:
    """How this trainer's attempts at the run ended."""
    lines = service.logged(trainer, "attempt_over")
    return [line["ended"] for line in lines if line["run_id"] == run_id]


def test_a_crash_costs_no_attempt(service: ProxiedService) -> None:
    service.start("trainer-1")
    service.start("trainer-2")
    run_ids = [service.submit(seed=1), service.submit(seed=2)]
    for run_id in run_ids:
        service.in_mid_run(run_id)

    with crashed(service.postgres):
        pass

    for run_id in run_ids:
        (attempt,) = service.ended_once(run_id)
        assert attempt["from_step"] == 0


def test_training_pauses_while_no_lease_can_be_renewed(service: ProxiedService) -> None:
    service.start("trainer-1")
    run_id = service.submit(**WITHOUT_CHECKPOINTS)
    service.in_training(run_id)
    service.start("trainer-2")  # it has nothing to do, and must not take this run
    children = service.children()
    (trainer,) = {service.holder(run_id)}

    with crashed(service.postgres):
        wait_until(lambda: is_paused(service.child_events(trainer)), what="training to pause")
        at_pause = steps_of(service.child_events(trainer))

    wait_until(lambda: not is_paused(service.child_events(trainer)), what="training to go on")
    assert service.children() == children
    events = service.child_events(trainer)
    resumed = [n for n, event in enumerate(events) if event.get("stage") == "training"][-1]
    assert steps_of(events[:resumed]) == at_pause
    (attempt,) = service.ended_once(run_id)
    assert attempt["outcome"] == "finished"


def test_a_trainer_gives_up_by_itself_and_the_run_resumes(service: ProxiedService) -> None:
    service.start("trainer-1", REVERIE_ORPHAN_S=f"{LEASE_S + 1:g}")
    run_id = service.submit(max_train_steps=60)
    service.in_mid_run(run_id)

    with crashed(service.postgres):
        wait_until(lambda: not service.children(), what="the training process to be ended")

    first, second = service.ended_once(run_id)
    assert first["outcome"] == "lost"
    assert second["from_step"] >= INTERVAL
    assert 0 <= first["last_step"] - second["from_step"] <= 2 * INTERVAL
    assert "given_up" in ends_of(service, "trainer-1", run_id)


def test_a_trainer_that_is_cut_off_has_paused_before_another_takes_its_run(
    service: ProxiedService,
) -> None:
    service.start("trainer-1")
    run_id = service.submit(**WITHOUT_CHECKPOINTS)
    service.in_training(run_id)
    (child,) = service.children()
    service.start("trainer-2")

    service.databases["trainer-1"].set("reset")
    service.tenant.wait_for(
        run_id, lambda run: len(run["attempts"]) == 2, deadline_s=60, what="the second attempt"
    )
    assert is_paused(service.child_events("trainer-1"))
    at_pause = steps_of(service.child_events("trainer-1"))
    wait_until(lambda: len(service.children()) == 2, what="the second training process")
    assert steps_of(service.child_events("trainer-1")) == at_pause
    service.databases["trainer-1"].set("ok")

    wait_until(lambda: child not in service.children(), what="the first one to be ended")
    first, _ = service.ended_once(run_id)
    assert first["outcome"] == "lost"
    assert "given_up" in ends_of(service, "trainer-1", run_id)
