"""Boxes behind TLS and a proxy: killed, cut off, revoked; requests lost, delayed, repeated."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.store import worker_keys
from tests.support.box_process import box_env
from tests.support.boxes import new_worker_key
from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy, Mode
from tests.support.redis import RedisServer
from tests.support.scripted_trainer import program
from tests.support.service import database_of, new_tenant, small_photos, small_run_request
from tests.support.tenant import Json, Tenant
from tests.support.tls import new_authority
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

INTERVAL = 2
"""Steps of the scripted training between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The service without a trainer of its own, and rented boxes behind one proxy."""

    fleet: Fleet
    proxy: FaultProxy
    ca_file: Path
    tenant: Tenant
    dataset: str

    def start(self, name: str, *, behaviour: str = "train") -> str:
        """A new box; the id of its key."""
        with database_of(self.fleet) as database:
            key, secret = new_worker_key(database, name)
        url = f"https://127.0.0.1:{self.proxy.port}"
        self.fleet.start(
            f"box-{name}",
            REVERIE_SCRATCH_DIR=str(self.fleet.home / f"scratch-{name}"),
            **box_env(url, self.ca_file, secret, program(behaviour)),
        )
        return key.key_id

    def submit(self) -> str:
        steps = {"max_train_steps": 10, "checkpoint_step_interval": INTERVAL}
        return self.tenant.submit(small_run_request({"photos": self.dataset}, **steps))

    def stored(self, run_id: str) -> Json:
        return self.tenant.wait_for(
            run_id, lambda run: run["checkpoint_step"] > 0, deadline_s=60, what="a checkpoint"
        )


@pytest.fixture(scope="module")
def boxes(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Boxes]:
    home = tmp_path_factory.mktemp("boxes")
    env = {
        "REVERIE_DATABASE_URL": postgres_server.create_database(),
        "REVERIE_BROKER_URL": shared_redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{home}/objects",
        "REVERIE_MODELS_DIR": str(models_dir),
    }
    with ExitStack() as opened:
        fleet = Fleet(home, env, modules={"box": "tests.support.box_process"})
        ca_file, tls = new_authority(home)
        proxy = opened.enter_context(FaultProxy(fleet.port, tls).running())
        fleet.env["REVERIE_API_URL"] = f"https://127.0.0.1:{proxy.port}"  # of signed URLs
        opened.callback(fleet.stop)
        fleet.start_all(trainers=0)
        tenant = new_tenant(fleet, "ada")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(ca_file))  # the tenant uploads by signed URLs
            dataset = tenant.push_folder(small_photos(home / "photos"))
        yield Boxes(fleet=fleet, proxy=proxy, ca_file=ca_file, tenant=tenant, dataset=dataset)


@pytest.fixture(autouse=True)
def no_box_left(boxes: Boxes) -> Iterator[None]:
    yield
    boxes.proxy.set("ok")
    for name, process in boxes.fleet.processes.items():
        if name.startswith("box-") and process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


def finished_once(run: Json) -> bool:
    ends = [attempt["outcome"] for attempt in run["attempts"]]
    return run["status"] == "succeeded" and ends.count("finished") == 1


def test_a_box_is_killed_and_another_finishes(boxes: Boxes) -> None:
    boxes.start("first", behaviour="endless")
    run_id = boxes.submit()
    stored = boxes.stored(run_id)
    boxes.fleet.signal("box-first", signal.SIGKILL)
    boxes.start("second")
    run = boxes.tenant.wait_over(run_id)
    assert finished_once(run)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["lost", "finished"]
    assert run["attempts"][1]["from_step"] >= stored["checkpoint_step"]


def test_a_box_that_is_told_to_stop_hands_its_run_back(boxes: Boxes) -> None:
    boxes.start("third", behaviour="endless")
    run_id = boxes.submit()
    boxes.stored(run_id)
    boxes.fleet.signal("box-third", signal.SIGTERM)
    assert boxes.fleet.wait("box-third") == 0
    boxes.start("fourth")
    run = boxes.tenant.wait_over(run_id)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["stopped", "finished"]


@pytest.mark.parametrize(
    "action", [":claim", ":commit-checkpoint", ":commit-manifest", ":commit-result"]
)
def test_an_answer_is_lost(boxes: Boxes, action: str) -> None:
    lost = boxes.proxy.lose_answer(f"{action} ".encode())
    boxes.start(f"deaf-{action[1:]}")
    run_id = boxes.submit()
    wait_until(lambda: lost.is_lost, deadline_s=60, what="the answer to be lost")
    run = boxes.tenant.wait_over(run_id)
    assert finished_once(run)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["finished"]


def test_the_answer_to_a_hand_back_is_lost(boxes: Boxes) -> None:
    boxes.start("deaf-hand-back", behaviour="endless")
    run_id = boxes.submit()
    boxes.stored(run_id)
    lost = boxes.proxy.lose_answer(b":hand-back ")
    boxes.fleet.signal("box-deaf-hand-back", signal.SIGTERM)
    assert boxes.fleet.wait("box-deaf-hand-back") == 0
    assert lost.is_lost
    boxes.start("after")
    run = boxes.tenant.wait_over(run_id)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["stopped", "finished"]


@pytest.mark.parametrize("mode", ["slow", "repeat", "repeat_late"])
def test_a_proxy_that_delays_and_repeats_costs_no_attempt(boxes: Boxes, mode: Mode) -> None:
    boxes.proxy.set(mode)
    boxes.start(f"behind-{mode}")
    run_id = boxes.submit()
    run = boxes.tenant.wait_over(run_id)
    assert boxes.proxy.hits[mode] > 0
    boxes.proxy.set("ok")
    assert finished_once(run)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["finished"]
    events = boxes.tenant.get(f"/v1/runs/{run_id}/events?limit=100")["data"]
    steps = [each["step"] for each in events if each["type"] == "step"]
    assert steps == sorted(set(steps))
    stored = [each["step"] for each in events if each["type"] == "run.checkpoint"]
    assert stored == sorted(set(stored))


def test_a_revoked_key_ends_its_worker_and_another_finishes(boxes: Boxes) -> None:
    key_id = boxes.start("revoked", behaviour="endless")
    run_id = boxes.submit()
    stored = boxes.stored(run_id)
    with database_of(boxes.fleet) as database, database.transaction() as conn:
        worker_keys.revoke(conn, key_id)
    assert boxes.fleet.wait("box-revoked") == 1
    assert "refuses this worker's key from now on" in boxes.fleet.tail("box-revoked")
    boxes.start("not-revoked")
    run = boxes.tenant.wait_over(run_id)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["lost", "finished"]
    assert run["attempts"][1]["from_step"] >= stored["checkpoint_step"]


@pytest.mark.parametrize("mode", ["reset", "hang"])
def test_the_run_of_a_box_that_is_cut_off_goes_to_another(boxes: Boxes, mode: Mode) -> None:
    boxes.start(f"cut-{mode}", behaviour="endless")
    run_id = boxes.submit()
    stored = boxes.stored(run_id)
    boxes.proxy.set(mode)
    # Longer than its lease: it pauses, and the run is queued again.
    boxes.tenant.wait_for(
        run_id,
        lambda run: run["attempts"][-1]["outcome"] == "lost",
        deadline_s=60,
        what="the lease to run out",
    )
    boxes.fleet.signal(f"box-cut-{mode}", signal.SIGKILL)
    boxes.proxy.set("ok")
    boxes.start(f"whole-{mode}")
    run = boxes.tenant.wait_over(run_id)
    assert finished_once(run)
    assert run["attempts"][-1]["from_step"] >= stored["checkpoint_step"]
