"""Trainers on one machine with a database, an object store and one run to train."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from services.domain.ids import new_id
from services.objects.open import open_store
from services.objects.shards import put_shard
from services.settings.env import Settings
from services.store import cache_entries
from services.trainer.context import TRAINING_PROGRAM
from tests.support.forked_training import child_command
from tests.support.forking import SERVICES, TRAINING, Process, server_of, start_module
from tests.support.shard_files import write_shard
from tests.support.waiting import wait_until
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.base_models.describe import describe_base
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.shards import shards_of

HERE = Path(__file__).parent
DEADLINE_S = 60.0
_COPIED = {
    "runs": "tenant_id, plan_digest, base_model, datasets, gpu_class, status, stage, max_steps",
    "run_documents": "tenant_id, request, plan, data_index, index_version",
    "run_shards": "tenant_id, digest",
}
"""Table → its columns that a second run shares with the first."""


@dataclass
class TrainerHost:
    """A database with one run that can be claimed, an object store, and trainers on one machine."""

    env: dict[str, str]
    folder: Path
    run_id: str = field(default_factory=lambda: new_id("run"))
    tenant_id: str = field(default_factory=lambda: new_id("ten"))
    processes: list[Process] = field(default_factory=list)

    def another_run(self) -> "TrainerHost":
        """The same machine, with another run like this one."""
        other = replace(self, run_id=new_id("run"))
        for table, columns in _COPIED.items():
            other.do(
                f"INSERT INTO {table} (run_id, {columns}) SELECT %(run_id)s, {columns}"
                f" FROM {table} WHERE run_id = '{self.run_id}'"
            )
        return other

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

    def start(
        self,
        behaviour: str,
        *,
        python: str = sys.executable,
        launcher: Sequence[str] = (),
        device_check: Sequence[str] = TRAINING_PROGRAM,
        rings: int = 1,
        fresh: bool = False,
        process_env: Mapping[str, str] = MappingProxyType({}),
        **env: str,
    ) -> Process:
        """A trainer that answers rings, one after the other, and then ends.

        Args:
            behaviour: of the training process, see ``trainer_supervisor_child``. ``real``: it is
                the one of a trainer, as a fork.
            python: the interpreter of the training process.
            launcher: a command that starts the trainer.
            device_check: the program that is asked whether the GPUs compute.
            fresh: the trainer is no fork.
            process_env: environment variables of the trainer; ``env`` changes its settings.
        """
        scripted = (python, str(HERE / "trainer_supervisor_child.py"), behaviour)
        real = child_command(server_of(TRAINING).address) if behaviour == "real" else ()
        told = {
            "run_id": self.run_id,
            "rings": rings,
            "env": {**self.env, **env},
            "child_command": real or scripted,
            "device_check": device_check,
        }
        trainer, argv = "tests.integration.trainer_supervisor_process", [json.dumps(told)]
        own = {**os.environ, "HF_TOKEN": "secret", **process_env}
        with (self.folder / f"trainer-{len(self.processes)}.log").open("wb") as log:
            process: Process
            if launcher:
                command = [*launcher, sys.executable, "-m", trainer, *argv]
                process = subprocess.Popen(command, env=own, stdout=log, stderr=log)
            else:
                kind = None if fresh else SERVICES
                process = start_module(trainer, argv, env=own, output=log, kind=kind)
        self.processes.append(process)
        return process

    def end_of(self, process: Process) -> int:
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
        wait_until(lambda: self.run()["step"] >= step, what=lambda: f"step {step}; {self.logs()}")

    def stored_state(self, step: int) -> list[Path]:
        return list((self.folder / "objects").rglob(f"step-{step:08d}/manifest.json"))


@contextmanager
def open_host(
    tmp_path: Path, database_url: str, objects_url: str | None = None
) -> Iterator[TrainerHost]:
    """A host in ``tmp_path``; its trainers are killed at the end. Objects are in a folder there."""
    base = tmp_path / "models" / "hidream-tiny"
    (base / "transformer").mkdir(parents=True)
    (base / "transformer" / "config.json").write_text(json.dumps(TINY_CONFIG))
    model = describe_base(base, "hidream-tiny")
    env = {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_OBJECTS_URL": objects_url or f"file://{tmp_path}/objects",
        "REVERIE_SIGNING_KEY": "5f" * 32,
        "REVERIE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "REVERIE_MODELS_DIR": str(tmp_path / "models"),
        "REVERIE_LEASE_S": "2",
        "REVERIE_POLL_S": "0.2",
        "REVERIE_RENEW_S": "0.3",
        "REVERIE_STALL_S": "30",
        "REVERIE_ORPHAN_S": "60",
    }
    host = TrainerHost(env, tmp_path)
    _insert_run(host, model.digest)
    yield host
    for process in host.processes:
        process.kill()
        process.wait()


def _insert_run(host: TrainerHost, base_digest: str) -> None:
    """A run whose shards are stored, waiting for a worker."""
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
    with psycopg.connect(host.env["REVERIE_DATABASE_URL"]) as conn:
        conn.execute("INSERT INTO tenants (tenant_id, name) VALUES (%s, 'ada')", (host.tenant_id,))
        conn.execute(
            """INSERT INTO runs (run_id, tenant_id, plan_digest, base_model,
               datasets, gpu_class, status, stage, max_steps)
               VALUES (%s, %s, '', 'hidream-tiny', '{}',
                       'cpu', 'queued', 'capacity', 10)""",
            (host.run_id, host.tenant_id),
        )
        conn.execute(
            """INSERT INTO run_documents (run_id, tenant_id, request, plan, data_index,
               index_version) VALUES (%s, %s, '{}', %s, %s, 2)""",
            (host.run_id, host.tenant_id, Jsonb(plan_json), Jsonb(index.model_dump(mode="json"))),
        )
        _insert_shards(conn, host, index)


def _insert_shards(conn: psycopg.Connection, host: TrainerHost, index: DataIndex) -> None:
    store = open_store(Settings.from_env(host.env))
    content = host.folder / "content"
    for shard in shards_of(index, {entry.digest for entry in index.entries}):
        write_shard(content, {digest: digest.encode() for digest in shard.digests()})
        stored = put_shard(store, host.tenant_id, shard.digest(), shard.kind, content)
        facts = (stored.manifest_sha256, stored.size_bytes)
        conn.execute(
            """INSERT INTO cache_shards (tenant_id, digest, kind, spec, base_model, status,
               manifest_sha256, size_bytes) VALUES (%s, %s, %s, '{}', 'hidream-tiny', 'done',
               %s, %s)""",
            (host.tenant_id, stored.digest, stored.kind, *facts),
        )
        conn.execute(
            "INSERT INTO run_shards (run_id, tenant_id, digest) VALUES (%s, %s, %s)",
            (host.run_id, host.tenant_id, stored.digest),
        )
        for entry in stored.entries:
            conn.execute(
                "INSERT INTO cache_entries (tenant_id, digest, shard) VALUES (%s, %s, %s)",
                (host.tenant_id, entry, stored.digest),
            )
        cache_entries.set_sizes(conn, host.tenant_id, stored.digest, stored.entries)


def claimable_again(host: TrainerHost) -> None:
    """Put the run back in the queue, as the dispatcher does after a dead lease or a pause."""
    host.do(
        "UPDATE runs SET status = 'queued', stage = 'capacity', lease_until = NULL,"
        " ring_after = NULL WHERE run_id = %(run_id)s"
    )
