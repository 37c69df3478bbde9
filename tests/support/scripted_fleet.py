"""Dispatchers and trainers for the runs of a ``TrainerHost``; training processes are scripts."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.trainer_supervisor_host import TrainerHost
from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.scripted_trainer import BEHAVIOUR


class ScriptedFleet(Fleet):
    """Processes of ``services``; a trainer's training process does what its start says."""

    def start_trainer(self, name: str, behaviour: str, **env: str) -> None:
        self.start(name, **{BEHAVIOUR: behaviour, **env})


@contextmanager
def scripted_fleet(host: TrainerHost, redis: RedisServer) -> Iterator[ScriptedFleet]:
    """Nothing is started yet; at the end everything is stopped."""
    fleet = ScriptedFleet(
        host.folder / "fleet",
        {**host.env, "REVERIE_BROKER_URL": redis.url},
        modules={"trainer": "tests.support.scripted_trainer"},
    )
    try:
        yield fleet
    finally:
        fleet.stop()
