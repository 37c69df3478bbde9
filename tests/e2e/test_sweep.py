"""A sweep from one request to its last result: one cache, refused rows, no run twice."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.service import database_of, small_photos, small_run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

OVER = ("succeeded", "failed", "canceled")
STEPS = 2
"""Of each run."""


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Fleet]:
    """Two trainers that train in forked processes, which start in no time."""
    home = tmp_path_factory.mktemp("sweep")
    env = {
        "REVERIE_DATABASE_URL": postgres_server.create_database(),
        "REVERIE_BROKER_URL": shared_redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{home}/objects",
        "REVERIE_MODELS_DIR": str(models_dir),
        "REVERIE_LOG_FORMAT": "json",
    }
    fleet = Fleet(home, env)
    with ExitStack() as opened:
        opened.callback(fleet.stop)
        fleet.start_all(trainers=2)
        yield fleet


@pytest.fixture(scope="module")
def sweep(tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Twelve runs; two have a learning rate that no run can have."""
    photos = tenant.push_folder(small_photos(tmp_path_factory.mktemp("photos") / "two"))
    steps = {"max_train_steps": STEPS, "checkpoint_step_interval": STEPS}
    base = small_run_request({"photos": photos}, lr_warmup_steps=1, **steps)
    options = {"learning_rate": [1e-3, 2e-3, 3e-3, 5e-3, 1e-2, -1], "seed": [1, 2]}
    return {"name": "rates", "base": base, "sweep": {"method": "grid", "options": options}}


@pytest.fixture(scope="module")
def batch(tenant: Tenant, sweep: Json) -> Json:
    """The batch of five equal requests, one of which is sent while another is at work."""

    def submit(_: int) -> httpx.Response:
        key = {"Idempotency-Key": "rates"}
        return tenant.http.post("/v1/batches", json=sweep, headers=key, timeout=60)

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(submit, range(5)))
    assert {answer.status_code for answer in answers} == {201}, answers[0].text
    assert all(answer.json() == answers[0].json() for answer in answers)
    return dict(answers[0].json())


def test_twelve_runs_share_one_cache_and_end_once(
    fleet: Fleet, tenant: Tenant, batch: Json
) -> None:
    assert (batch["num_runs"], batch["num_refused"]) == (10, 2)
    for row in batch["refused"]:
        assert row["options"]["learning_rate"] == -1
        assert [error["pointer"] for error in row["errors"]] == ["/sweep/options/learning_rate/5"]
        assert "learning_rate has to be" in row["errors"][0]["message"]

    def over() -> Json | None:
        shown = tenant.get(batch["links"]["self"])
        return shown if sum(shown["counts"].get(each, 0) for each in OVER) == 10 else None

    done = wait_until(over, deadline_s=240, every_s=0.5, what="the runs of the batch to end")
    assert done["counts"] == {"succeeded": 10}
    assert (done["step"], done["max_steps"]) == (10 * STEPS, 10 * STEPS)
    listed = tenant.get("/v1/runs?limit=100")["data"]
    assert {run["id"] for run in listed} == {row["run_id"] for row in batch["runs"]}
    assert len(tenant.get("/v1/batches")["data"]) == 1
    rates = set()
    for row in batch["runs"]:
        run = tenant.run(row["run_id"])
        assert [attempt["outcome"] for attempt in run["attempts"]] == ["finished"]
        rates.add(tenant.get(run["links"]["plan"])["identity"]["optimizer"]["learning_rate"])
    assert rates == {1e-3, 2e-3, 3e-3, 5e-3, 1e-2}

    # Each encoding is one request to the encoders, logged with the shard that came of it.
    built = Counter(
        line["digest"]
        for line in fleet.log_lines("cache_builder")
        if line["event"] == "shard_built"
    )
    with database_of(fleet) as database, database.transaction() as conn:
        needed = conn.execute("SELECT run_id, digest FROM run_shards").fetchall()
    of_runs: dict[str, set[str]] = {}
    for run_id, digest in needed:
        of_runs.setdefault(run_id, set()).add(digest)
    assert len(of_runs) == 10
    assert set(map(frozenset, of_runs.values())) == {frozenset(built)}
    assert set(built.values()) == {1}


def test_the_commands_show_the_batch(fleet: Fleet, tenant: Tenant, batch: Json) -> None:
    step = f"{STEPS}/{STEPS}"
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("REVERIE_")},
        "REVERIE_URL": fleet.url,
        "REVERIE_API_KEY": tenant.http.headers["Authorization"].removeprefix("Bearer "),
    }

    def reverie(*args: str) -> str:
        command = [sys.executable, "-m", "services.cli.main", "batches", *args]
        return subprocess.run(
            command, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=120
        ).stdout

    watched = reverie("watch", batch["id"])
    assert watched.count(f"succeeded, step {step}") == 10
    compared = reverie("compare", batch["id"]).splitlines()
    assert re.split(r"\s\s+", compared[0].strip()) == [
        "ROW", "RUN", "learning_rate", "seed", "STATUS", "STEP", "LOSS", "BEST", "EVAL", "CHARGED",
    ]  # fmt: skip
    assert len(compared) == 11
    assert all(re.search(rf"succeeded +{step} +\d\.\d+", line) for line in compared[1:])
    assert "10 succeeded" in reverie("list")
    assert json.loads(reverie("show", batch["id"], "--json"))["counts"] == {"succeeded": 10}
