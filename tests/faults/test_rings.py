"""F15, F16: rings that are repeated, late, malformed, or about rows that are not there."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.ids import new_id
from services.queue.app import CACHE_QUEUE, CONTROL_QUEUE, NOTIFY_QUEUE, trainer_queue
from services.queue.rings import Rings
from services.store import datasets, index_tasks, publications
from tests.integration.trainer_supervisor_host import TrainerHost, open_host
from tests.support.dispatching import real_plan
from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase, result_of
from tests.support.scripted_fleet import scripted_fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

TIMES = 10
TRAIN = trainer_queue("cpu")


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def test_each_run_is_trained_once_however_often_it_rings(
    host: TrainerHost, redis_server: RedisServer
) -> None:
    runs = [host, host.another_run(), host.another_run()]
    shuffled = [run.run_id for run in runs] * TIMES
    random.Random(7).shuffle(shuffled)

    with scripted_fleet(host, redis_server) as fleet, Rings(redis_server.url) as rings:
        for name in ("trainer-1", "trainer-2"):
            fleet.start_trainer(name, "finish")

        def ring_all() -> None:
            for run_id in shuffled:
                rings.trainer("cpu", run_id)

        def ignored() -> int:
            return sum(fleet.tail(name, 1 << 20).count("ring_ignored") for name in fleet.processes)

        ring_all()
        for run in runs:
            wait_until(
                lambda: run.run()["status"] == "succeeded",  # noqa: B023
                what=lambda: fleet.tail("trainer-1") + fleet.tail("trainer-2"),
            )
        ring_all()  # after the end
        wait_until(
            lambda: ignored() == 2 * len(shuffled) - len(runs),
            what=lambda: f"all rings to be answered, {ignored()} were ignored",
        )

    for run in runs:
        assert [row[0] for row in run.attempts()] == ["finished"]
        assert len(run.events("run.started")) == len(run.events("run.succeeded")) == 1


def malformed(task: str, queue: str, args: list[str]) -> list[str]:
    """Messages as they are stored in Redis: one that is no JSON, and one with wrong arguments."""
    body = base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()
    headers = {"id": "1", "task": task, "lang": "py", "root_id": "1"}
    properties = {
        "correlation_id": "1",
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_tag": new_id("run"),
        "body_encoding": "base64",
    }
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    other = {**message, "body": "AA==", "properties": {**properties, "delivery_tag": "2"}}
    return [json.dumps(message), json.dumps(other)]


@pytest.fixture
def workers(
    tmp_path: Path, database_url: str, redis_server: RedisServer, described_models_dir: Path
) -> Iterator[Fleet]:
    """Each process that answers rings, and no dispatcher."""
    fleet = Fleet(
        tmp_path / "fleet",
        {
            "REVERIE_DATABASE_URL": database_url,
            "REVERIE_BROKER_URL": redis_server.url,
            "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
            "REVERIE_MODELS_DIR": str(described_models_dir),
        },
    )
    try:
        for name in ("trainer", "cache_builder", "results"):
            fleet.start(name)
        wait_until(lambda: "indexer_up" in fleet.tail("cache_builder"), what="the indexer")
        yield fleet
    finally:
        fleet.stop()


def test_a_ring_about_nothing_is_dropped_and_the_worker_goes_on(
    tenant_db: TenantDatabase, workers: Fleet, redis_server: RedisServer
) -> None:
    other, nobody = tenant_db.neighbour().tenant_id, new_id("ten")
    published = tenant_db.held()
    result = result_of(published)
    tenant_db.ledger.commit_result(published.run_id, published.fence, result, step=1)
    run_id = tenant_db.claimable().run_id
    admitted_id = tenant_db.queued(plan=real_plan()).run_id
    with tenant_db.database.transaction() as conn:
        dataset_id = tenant_db.dataset(conn, ready=False).dataset_id
        datasets.complete(conn, tenant_db.tenant_id, dataset_id)
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10)
        assert index_tasks.take_offers(conn, offer=LEASE, silence=LEASE)
    tasks = {
        "trainer.ring": (TRAIN, ["run_../x"]),
        "runs.admit": (CONTROL_QUEUE, [other, "run_x"]),
        "datasets.verify": (CACHE_QUEUE, [other]),
        "publications.publish": (NOTIFY_QUEUE, ["", publication.publication_id]),
    }

    def untouched() -> bool:
        with tenant_db.database.transaction() as conn:
            (now,) = publications.list_page(conn, tenant_db.tenant_id, 10)
            dataset = datasets.get(conn, tenant_db.tenant_id, dataset_id)
        stages = (tenant_db.run(run_id).fence, tenant_db.run(admitted_id).stage)
        return (*stages, dataset.status, now.attempts) == (0, "admission", "verifying", 0)

    with redis_server.client() as client, Rings(redis_server.url) as rings:

        def wait_until_answered() -> None:
            for queue, _ in tasks.values():
                wait_until(lambda: client.llen(queue) == 0, what=queue)  # noqa: B023
            wait_until(lambda: client.hlen("unacked") == 0, what="acknowledgements")

        rings.trainer("cpu", new_id("run"))
        for tenant_id in (other, nobody):
            rings.admission(tenant_id, admitted_id)
            rings.dataset(tenant_id, dataset_id)
            rings.shard(tenant_id, "a" * 64)
            rings.publication(tenant_id, publication.publication_id)
        for task, (queue, args) in tasks.items():
            for message in malformed(task, queue, args):
                client.lpush(queue, message)
        wait_until_answered()
        assert untouched()

        rings.trainer("cpu", run_id)
        rings.admission(tenant_db.tenant_id, admitted_id)
        rings.dataset(tenant_db.tenant_id, dataset_id)
        rings.publication(tenant_db.tenant_id, publication.publication_id)
        wait_until(lambda: tenant_db.run(run_id).fence == 1, what="the trainer")
        wait_until(lambda: tenant_db.run(admitted_id).stage == "caching", what="the indexer")

        def answered() -> bool:
            with tenant_db.database.transaction() as conn:
                (now,) = publications.list_page(conn, tenant_db.tenant_id, 10)
                dataset = datasets.get(conn, tenant_db.tenant_id, dataset_id)
            return now.attempts == 1 and dataset.status == "rejected"  # nothing was uploaded

        wait_until(answered, what="the builder and the publisher")

    logs = {name: workers.tail(name, 1 << 20) for name in workers.processes}
    dropped = {name: log.count("ring_dropped") for name, log in logs.items()}
    assert dropped == {"trainer": 2, "cache_builder": 4, "results": 2}, logs
    assert all("Traceback" not in log and "ring_failed" not in log for log in logs.values()), logs
