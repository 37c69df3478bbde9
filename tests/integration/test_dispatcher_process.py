"""Dispatchers as processes, several at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.queue.app import CACHE_QUEUE, trainer_queue
from tests.support.dispatching import build_all_shards, real_plan
from tests.support.objects import SIGNING_KEY
from tests.support.redis import RedisServer
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until

TRAIN = trainer_queue("cpu")


def settings_of(database_url: str, redis_server: RedisServer, objects: Path) -> dict[str, str]:
    return {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_BROKER_URL": redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{objects}",
        "REVERIE_SIGNING_KEY": SIGNING_KEY.hex(),
        "REVERIE_POLL_S": "0.05",
        "REVERIE_OFFER_S": "60",
        "REVERIE_LOG_FORMAT": "json",
    }


@contextmanager
def two_dispatchers(settings: Mapping[str, str]) -> Iterator[None]:
    """Run two dispatchers and an indexer; all must end cleanly on SIGTERM and log JSON lines."""
    env = {**os.environ, **settings}
    modules = ["services.dispatcher", "services.dispatcher", "services.cache_builder.indexing"]
    all_three = [
        subprocess.Popen([sys.executable, "-m", module], env=env, stderr=subprocess.PIPE)
        for module in modules
    ]
    try:
        yield
    finally:
        for process in all_three:
            process.send_signal(signal.SIGTERM)
        logs = [process.communicate(timeout=20)[1] for process in all_three]
    assert [process.returncode for process in all_three] == [0, 0, 0], logs
    lines = [json.loads(line) for log in logs for line in log.splitlines()]
    assert {line["service"] for line in lines} == {"dispatcher", "indexer"}


def test_two_dispatchers_do_each_piece_of_work_once(
    tenant_db: TenantDatabase,
    database_url: str,
    redis_server: RedisServer,
    described_models_dir: Path,
    *,
    tmp_path: Path,
    queues: Callable[[str], int],
) -> None:
    settings = {
        **settings_of(database_url, redis_server, tmp_path),
        "REVERIE_MODELS_DIR": str(described_models_dir),
    }
    held = tenant_db.held()
    for _ in range(2):
        tenant_db.builder()
    with two_dispatchers(settings):
        waiting = [tenant_db.queued(plan=real_plan()) for _ in range(3)]

        def all_at(stage: str) -> bool:
            return all(tenant_db.run(run.run_id).stage == stage for run in waiting)

        wait_until(lambda: all_at("caching"), what="admission")
        num_shards = len(tenant_db.shards_of(waiting[0].run_id))
        wait_until(lambda: queues(CACHE_QUEUE) == num_shards, what="rings for shards")
        build_all_shards(tenant_db)
        wait_until(lambda: all_at("capacity"), what="the end of caching")
        for _ in waiting:
            tenant_db.worker()
        wait_until(lambda: queues(TRAIN) == len(waiting), what="offers")
        for run in waiting:
            types = tenant_db.event_types(run.run_id)
            assert types == ["run.queued", "run.running", "run.queued"]
        assert queues(CACHE_QUEUE) == num_shards
        assert tenant_db.run(held.run_id).is_held
    assert queues(TRAIN) == len(waiting)


_STOPPED_IN_A_WAIT = """
import signal, sys, threading
from services.dispatcher.main import main

def stop(frame, event, arg):
    if frame.f_code is threading.Condition.wait.__code__:  # of an event, whose lock is held
        if frame.f_back.f_back.f_code is main.__code__:
            sys.settrace(None)
            signal.raise_signal(signal.SIGTERM)

sys.settrace(stop)
sys.exit(main())
"""


def test_a_signal_that_comes_as_it_begins_to_wait_ends_it(
    database_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    env = {**os.environ, **settings_of(database_url, redis_server, tmp_path)}
    command = [sys.executable, "-c", _STOPPED_IN_A_WAIT]
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"dispatcher_down" in done.stderr
