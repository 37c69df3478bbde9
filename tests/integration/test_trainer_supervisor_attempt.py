"""One attempt in a real process with a real child: how it ends, and what nobody may survive."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.domain.ids import new_id
from services.objects.folders import put_shard
from services.objects.open import open_store
from services.settings.env import Settings
from tests.support.postgres import PostgresServer
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.base_models.describe import describe_base
from trainer_core.data.index import FileItem
from trainer_core.data.indexing import build_index

HERE = Path(__file__).parent
DEADLINE_S = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.02)


@dataclass
class Place:
    """A database with one run that can be claimed, an object store, and trainers on one machine."""

    env: dict[str, str]
    folder: Path
    run_id: str = field(default_factory=lambda: new_id("run"))
    tenant_id: str = field(default_factory=lambda: new_id("ten"))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.env["REVERIE_DATABASE_URL"]) as conn:
            return conn.execute(query, {"run_id": self.run_id}).fetchall()

    def do(self, statement: str) -> None:
        with psycopg.connect(self.env["REVERIE_DATABASE_URL"]) as conn:
            conn.execute(statement, {"run_id": self.run_id})

    def run(self) -> dict[str, Any]:
        columns = "status, stage, fence, step, checkpoint_step, result_step, status_reason"
        (row,) = self.ask(f"SELECT {columns} FROM runs WHERE run_id = %(run_id)s")
        return dict(zip(columns.split(", "), row, strict=True))

    def attempts(self) -> list[tuple[Any, ...]]:
        return self.ask(
            "SELECT outcome, from_step, reason->>'code', reason->>'message' FROM attempts"
            " WHERE run_id = %(run_id)s ORDER BY fence"
        )

    def events(self, kind: str) -> list[tuple[int, dict[str, Any]]]:
        rows = self.ask(
            "SELECT type, step, data FROM events WHERE run_id = %(run_id)s ORDER BY seq"
        )
        return [(step, data) for type_, step, data in rows if type_ == kind]

    def start(self, behaviour: str, **env: str) -> subprocess.Popen[bytes]:
        told = {
            "run_id": self.run_id,
            "env": {**self.env, **env},
            "child_command": [sys.executable, str(HERE / "trainer_supervisor_child.py"), behaviour],
        }
        log = (self.folder / f"trainer-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.trainer_supervisor_process",
                json.dumps(told),
            ],
            env={**os.environ, "HF_TOKEN": "secret", "PYTHONPATH": str(HERE.parents[1])},
            stdout=log,
            stderr=log,
        )
        self.processes.append(process)
        return process

    def end_of(self, process: subprocess.Popen[bytes]) -> int:
        return process.wait(DEADLINE_S)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("trainer-*.log")))

    def child_pids(self) -> list[int]:
        mark = str(self.folder / "scratch")
        found = []
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_text()
            except OSError:
                continue
            if "--supervisor" in command and mark in command:
                found.append(int(process.name))
        return found

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: self.run()["step"] >= step, f"step {step}; {self.logs()}")

    def stored_state(self, step: int) -> list[Path]:
        return list((self.folder / "objects").rglob(f"step-{step:08d}/manifest.json"))


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    base = tmp_path / "models" / "hidream-tiny"
    (base / "transformer").mkdir(parents=True)
    (base / "transformer" / "config.json").write_text(json.dumps(TINY_CONFIG))
    model = describe_base(base, "hidream-tiny")
    env = {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
        "REVERIE_SIGNING_KEY": "5f" * 32,
        "REVERIE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "REVERIE_MODELS_DIR": str(tmp_path / "models"),
        "REVERIE_LEASE_S": "2",
        "REVERIE_POLL_S": "0.2",
        "REVERIE_RENEW_S": "0.3",
        "REVERIE_STALL_S": "30",
        "REVERIE_ORPHAN_S": "60",
    }
    place = Place(env, tmp_path)
    _insert_run(place, model.digest)
    yield place
    for process in place.processes:
        process.kill()
        process.wait()


def _insert_run(place: Place, base_digest: str) -> None:
    """A run whose shards stand, waiting for a worker."""
    plan = import_small({}, backends=[{"id": "a", "caption_strategy": "filename"}]).plan
    sha256 = "0" * 64
    items = [
        FileItem(
            backend="a",
            path=f"{n}.png",
            sha256=sha256,
            width_px=256,
            height_px=256,
            captions=("c",),
        )
        for n in range(4)
    ]
    index = build_index(plan, items, TINY_CONFIG)
    plan_json = plan.model_dump(mode="json")
    plan_json["identity"]["base"] = {"name": "hidream-tiny", "digest": base_digest}
    store = open_store(Settings.from_env(place.env))
    content = place.folder / "content"
    with psycopg.connect(place.env["REVERIE_DATABASE_URL"]) as conn:
        conn.execute("INSERT INTO tenants (tenant_id, name) VALUES (%s, 'ada')", (place.tenant_id,))
        conn.execute(
            """INSERT INTO runs (run_id, tenant_id, plan_digest, base_model,
               datasets, gpu_class, status, stage, max_steps)
               VALUES (%s, %s, '', 'hidream-tiny', '{}',
                       'cpu', 'queued', 'capacity', 10)""",
            (place.run_id, place.tenant_id),
        )
        conn.execute(
            """INSERT INTO run_documents (run_id, tenant_id, request, plan, data_index)
               VALUES (%s, %s, '{}', %s, %s)""",
            (place.run_id, place.tenant_id, Jsonb(plan_json), Jsonb(index.model_dump(mode="json"))),
        )
        for shard in index.shards:
            content.write_bytes(shard.digest.encode())
            stored = put_shard(store, place.tenant_id, shard.digest, shard.kind, content)
            facts = (stored.manifest_sha256, stored.size_bytes)
            conn.execute(
                """INSERT INTO cache_shards (tenant_id, digest, kind, spec, base_model, status,
                   manifest_sha256, size_bytes) VALUES (%s, %s, %s, '{}', 'hidream-tiny', 'done',
                   %s, %s)""",
                (place.tenant_id, shard.digest, shard.kind, *facts),
            )
            conn.execute(
                "INSERT INTO run_shards (run_id, tenant_id, digest) VALUES (%s, %s, %s)",
                (place.run_id, place.tenant_id, shard.digest),
            )


def test_a_run_is_trained_and_committed(place: Place) -> None:
    assert place.end_of(place.start("finish")) == 0, place.logs()

    assert place.run()["status"] == "succeeded", place.logs()
    assert place.run()["result_step"] == 10
    assert place.attempts()[0][0] == "finished"
    checkpoints = place.ask("SELECT step FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step")
    assert checkpoints == [(2,), (4,), (6,), (8,), (10,)]
    environment = place.events("stage")[0][1]["environment"]
    assert not {name for name in environment if name.startswith(("REVERIE_D", "HF_TOKEN", "AWS_"))}
    assert "path" not in place.events("checkpoint")[0][1]  # nothing of this machine's disk
    assert list((place.folder / "scratch").glob("wrk_*")) == []


def test_sigterm_commits_and_the_next_worker_goes_on(place: Place) -> None:
    first = place.start("endless")
    place.wait_for_step(5)

    first.send_signal(signal.SIGTERM)
    assert place.end_of(first) == 0

    run = place.run()
    assert (run["status"], run["fence"]) == ("queued", 1), place.logs()
    assert place.attempts()[0][0] == "stopped"
    last_step = place.events("step")[-1][0]
    assert last_step - run["checkpoint_step"] <= 1
    _claimable_again(place)
    second = place.start("finish")
    assert place.end_of(second) == 0
    assert place.run()["status"] == "succeeded", place.logs()
    assert place.attempts()[1][1] == run["checkpoint_step"]


def _claimable_again(place: Place) -> None:
    """What the dispatcher does in time: the sweep of a dead lease, the end of a pause."""
    place.do(
        "UPDATE runs SET status = 'queued', stage = 'capacity', lease_until = NULL,"
        " ring_after = NULL WHERE run_id = %(run_id)s"
    )


def test_a_lost_lease_kills_the_child_and_nothing_more_is_written(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)

    place.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")
    assert place.end_of(holder) == 0

    before = place.run()
    assert not place.child_pids()
    assert before["status"] == "running"
    assert place.attempts()[0][0] is None  # neither handed back nor ended by the old holder
    assert list((place.folder / "scratch").glob("wrk_*")) == []


def test_a_child_that_dies_is_retryable_and_its_checkpoints_stand(place: Place) -> None:
    assert place.end_of(place.start("die")) == 0

    outcome, _, code, message = place.attempts()[0]
    assert (outcome, code) == ("failed", "child_died"), place.logs()
    assert "SIGKILL" in message
    assert place.run()["status"] == "queued"
    assert place.run()["checkpoint_step"] == 4


def test_a_child_that_hangs_is_ended(place: Place) -> None:
    assert place.end_of(place.start("hang", REVERIE_STALL_S="1.5")) == 0

    outcome, _, code, _ = place.attempts()[0]
    assert (outcome, code) == ("failed", "stalled"), place.logs()
    assert place.run()["status"] == "queued"
    assert not place.child_pids()


def test_a_users_error_is_not_retried(place: Place) -> None:
    assert place.end_of(place.start("fail")) == 0

    assert place.attempts()[0][2] == "non_finite_loss", place.logs()
    assert place.run()["status"] == "failed"


def test_no_orphan_outlives_a_killed_supervisor(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)
    assert len(place.child_pids()) == 1

    holder.kill()
    place.end_of(holder)

    wait_until(lambda: not place.child_pids(), "the orphan to end")
    assert list((place.folder / "scratch").glob("wrk_*"))  # left behind …
    _claimable_again(place)
    assert place.end_of(place.start("finish")) == 0
    assert list((place.folder / "scratch").glob("wrk_*")) == []  # … and wiped by the next one


def test_cancel_stops_the_child(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)

    place.do("UPDATE runs SET status = 'canceling' WHERE run_id = %(run_id)s")
    assert place.end_of(holder) == 0

    assert place.run()["status"] == "canceled", place.logs()


def test_a_frozen_database_pauses_the_child_until_the_same_fence_renews(
    place: Place, postgres_server: PostgresServer
) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)
    (child,) = place.child_pids()
    (attempt,) = (place.folder / "scratch").glob("wrk_*/attempt-*")

    postgres_server.freeze()
    try:
        wait_until(lambda: _paused(attempt), "the child to pause")
    finally:
        postgres_server.thaw()

    wait_until(lambda: not _paused(attempt), "the child to go on")
    step = place.run()["step"]
    place.wait_for_step(step + 3)
    assert place.child_pids() == [child]
    holder.send_signal(signal.SIGTERM)
    assert place.end_of(holder) == 0
    assert place.attempts()[0][0] == "stopped", place.logs()


def _paused(attempt: Path) -> bool:
    stages = [
        event["stage"]
        for line in (attempt / "events.jsonl").read_text().splitlines()
        if '"stage"' in line and (event := json.loads(line))["event"] == "stage"
    ]
    return stages[-1] == "paused"


def test_a_damaged_checkpoint_is_named_and_not_retried(place: Place) -> None:
    assert place.end_of(place.start("die")) == 0
    _claimable_again(place)
    (manifest,) = place.stored_state(4)
    (manifest.parent / "state.bin").write_bytes(b"state after 5")

    assert place.end_of(place.start("finish")) == 0

    assert place.attempts()[1][2] == "checkpoint_corrupt", place.logs()
    assert "step 4" in place.attempts()[1][3]
    assert place.run()["status"] == "failed"
