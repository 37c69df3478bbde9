"""F36, F38: a trainer is frozen, or cut off from PostgreSQL, the store, Redis, or all of them.

Another trainer takes its run over once its lease has run out. What the former holder does then has
no effect.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.store import run_control
from services.store.database import Database
from tests.integration.trainer_supervisor_child import INTERVAL
from tests.integration.trainer_supervisor_host import TrainerHost, open_host
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy, Mode
from tests.support.redis import RedisServer
from tests.support.rgw import Bucket
from tests.support.scripted_fleet import ScriptedFleet, scripted_fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

Proxies = dict[str, FaultProxy]
_ACCEPTED = """
SELECT (SELECT count(*) FROM events WHERE run_id = runs.run_id), runs::text,
    (SELECT string_agg(checkpoints::text, ' ' ORDER BY step) FROM checkpoints),
    (SELECT string_agg(attempts::text, ' ' ORDER BY fence) FROM attempts)
FROM runs WHERE run_id = %(run_id)s
"""


@pytest.fixture
def host(tmp_path: Path, database_url: str, rgw_bucket: Bucket) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url, rgw_bucket.url) as host:
        yield host


@pytest.fixture
def fleet(host: TrainerHost, redis_server: RedisServer) -> Iterator[ScriptedFleet]:
    with scripted_fleet(host, redis_server) as fleet:
        fleet.start("dispatcher")
        yield fleet


@pytest.fixture
def proxies(
    fleet: ScriptedFleet,  # first, so that it is stopped with its network whole
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    rgw_bucket: Bucket,
) -> Iterator[Proxies]:
    ports = {
        "postgres": postgres_server.port,
        "redis": redis_server.port,
        "s3": rgw_bucket.port,
    }
    with contextlib.ExitStack() as opened:
        proxies = {
            name: opened.enter_context(FaultProxy(port).running()) for name, port in ports.items()
        }
        opened.callback(fleet.stop)
        opened.callback(set_all, proxies, "ok")
        yield proxies


def set_all(proxies: Proxies, mode: Mode) -> None:
    for proxy in proxies.values():
        proxy.set(mode)


@pytest.fixture
def through_proxies(
    host: TrainerHost, proxies: Proxies, redis_server: RedisServer, rgw_bucket: Bucket
) -> dict[str, str]:
    """The environment of the trainer that is cut off."""
    database_url = host.env["REVERIE_DATABASE_URL"]
    port = urlsplit(database_url).port
    return {
        "REVERIE_DATABASE_URL": database_url.replace(f":{port}/", f":{proxies['postgres'].port}/"),
        "REVERIE_BROKER_URL": redis_server.url.replace(
            f":{redis_server.port}/", f":{proxies['redis'].port}/"
        ),
        "REVERIE_OBJECTS_URL": rgw_bucket.at(proxies["s3"].port).url,
    }


class Holder:
    """The first trainer and its training process, which never ends by itself."""

    def __init__(self, host: TrainerHost, fleet: ScriptedFleet, **env: str) -> None:
        self.host, self.fleet = host, fleet
        fleet.start_trainer("trainer-1", "endless", **env)
        wait_until(lambda: host.run()["checkpoint_step"] >= INTERVAL, what=self.log)
        (self.child,) = host.child_pids()
        (self.folder,) = (host.folder / "scratch").glob("wrk_*/attempt-*")

    def log(self) -> str:
        return self.fleet.tail("trainer-1")

    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def step(self) -> int:
        return int(self.events()[-1]["step"])

    def is_gone(self) -> bool:
        return "attempt_over" in self.log() and self.child not in self.host.child_pids()


def accepted(host: TrainerHost) -> list[tuple[Any, ...]]:
    """Everything that a write of a holder could change."""
    return host.ask(_ACCEPTED)


def taken_over(host: TrainerHost, holder: Holder, fleet: ScriptedFleet) -> int:
    """Another trainer takes the run and ends it; the step of the former holder at its claim."""
    fleet.start_trainer("trainer-2", "finish")
    wait_until(lambda: len(host.attempts()) == 2, what=lambda: fleet.tail("dispatcher"))
    step = holder.step()
    wait_until(lambda: host.run()["status"] == "succeeded", what=lambda: fleet.tail("trainer-2"))
    return step


def assert_refused(host: TrainerHost, holder: Holder, before: list[tuple[Any, ...]]) -> None:
    """The former holder, back again, ends its attempt and has changed nothing."""
    wait_until(holder.is_gone, what=holder.log)
    assert "given_up" in holder.log()
    assert accepted(host) == before
    run = host.run()
    assert (run["status"], run["fence"]) == ("succeeded", 2)
    assert [row[0] for row in host.attempts()] == ["lost", "finished"]


@pytest.mark.parametrize(
    ("cut", "mode"),
    [
        pytest.param(["postgres"], "hang", id="postgres"),
        pytest.param(["postgres"], "drop_reply", id="postgres, one way"),
        pytest.param(["postgres", "s3", "redis"], "hang", id="all"),
        pytest.param(["postgres", "s3", "redis"], "reset", id="all, reset"),
    ],
)
def test_a_holder_without_the_database_pauses_and_is_replaced(  # noqa: PLR0917 - fixtures
    host: TrainerHost,
    fleet: ScriptedFleet,
    proxies: Proxies,
    through_proxies: dict[str, str],
    cut: list[str],
    mode: Mode,
) -> None:
    holder = Holder(host, fleet, **through_proxies)

    for name in cut:
        proxies[name].set(mode)
    step_at_claim = taken_over(host, holder, fleet)
    before = accepted(host)

    assert holder.step() - step_at_claim <= 1  # it paused when its lease may have run out
    set_all(proxies, "ok")
    assert_refused(host, holder, before)


def test_a_frozen_holder_is_refused_when_it_thaws(host: TrainerHost, fleet: ScriptedFleet) -> None:
    holder = Holder(host, fleet)

    fleet.signal("trainer-1", signal.SIGSTOP)
    os.kill(holder.child, signal.SIGSTOP)
    taken_over(host, holder, fleet)
    before = accepted(host)
    os.kill(holder.child, signal.SIGCONT)
    fleet.signal("trainer-1", signal.SIGCONT)

    assert_refused(host, holder, before)


def test_a_run_that_is_canceled_while_its_holder_is_cut_off(
    host: TrainerHost,
    fleet: ScriptedFleet,
    proxies: Proxies,
    through_proxies: dict[str, str],
    database: Database,
) -> None:
    holder = Holder(host, fleet, **through_proxies)
    set_all(proxies, "hang")

    with database.transaction() as conn:
        run_control.cancel(conn, host.tenant_id, host.run_id)

    wait_until(lambda: host.run()["status"] == "canceled", what=lambda: fleet.tail("dispatcher"))
    before = accepted(host)
    set_all(proxies, "ok")
    wait_until(holder.is_gone, what=holder.log)
    assert accepted(host) == before
    assert [row[0] for row in host.attempts()] == ["lost"]


def test_a_holder_without_the_store_keeps_its_lease_and_waits(
    host: TrainerHost, fleet: ScriptedFleet, proxies: Proxies, through_proxies: dict[str, str]
) -> None:
    holder = Holder(host, fleet, **through_proxies)

    proxies["s3"].set("hang")
    kept = host.run()["checkpoint_step"]
    wait_until(lambda: holder.step() >= kept + 2 * INTERVAL, what=holder.log)
    assert_still_held(host, fleet)

    proxies["s3"].set("ok")
    host.wait_for_step(holder.step() + 2 * INTERVAL)
    assert len(host.attempts()) == 1


def test_a_holder_without_redis_goes_on_and_hears_the_next_ring(
    host: TrainerHost,
    fleet: ScriptedFleet,
    proxies: Proxies,
    through_proxies: dict[str, str],
    database: Database,
) -> None:
    next_run = host.another_run()
    holder = Holder(host, fleet, **through_proxies)

    proxies["redis"].set("reset")
    assert_still_held(host, fleet)
    host.wait_for_step(holder.step() + 2 * INTERVAL)
    with database.transaction() as conn:
        run_control.cancel(conn, host.tenant_id, host.run_id)  # the trainer is free then
    wait_until(lambda: host.run()["status"] == "canceled", what=holder.log)
    proxies["redis"].set("ok")

    wait_until(lambda: next_run.run()["checkpoint_step"], what=holder.log)


def assert_still_held(host: TrainerHost, fleet: ScriptedFleet) -> None:
    """For twice as long as a lease, by the database's clock."""
    query = (
        "SELECT lease_until > clock_timestamp(), clock_timestamp() FROM runs"
        " WHERE run_id = %(run_id)s"
    )
    ((_, since),) = host.ask(query)
    now = since
    while (now - since).total_seconds() < 2 * float(host.env["REVERIE_LEASE_S"]):
        ((is_held, now),) = host.ask(query)
        assert is_held, fleet.tail("trainer-1")
