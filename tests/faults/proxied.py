"""The whole service with a fault proxy between each process and its servers.

Each process connects to the database through a proxy of its own and under its own name, so that one
process can be cut off, and so that the record of ``audit`` says who wrote.
"""

import contextlib
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from services.processes.tree import started_with
from tests.faults.random import audit, check, rows
from tests.support.fleet import Fleet, training_children
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.redis import RedisServer
from tests.support.rgw import Bucket
from tests.support.service import new_tenant, small_photos, small_run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

LEASE_S = 4.0
INTERVAL = 5
"""Steps between two checkpoints, unless a test asks for others."""


@dataclass(kw_only=True)
class ProxiedService:
    """Everything that runs; ``running_service`` makes one."""

    fleet: Fleet
    postgres: PostgresServer
    database_url: str
    """Past the proxies, as the superuser."""
    user: str
    """The database's role of all processes; it is not a superuser."""
    store: FaultProxy | None
    """Before the S3 server; None where the objects are in a folder."""
    databases: dict[str, FaultProxy] = field(default_factory=dict)
    """Name of a process → the proxy before its database."""
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    tenant: Tenant = field(init=False)
    tenant_id: str = field(init=False)
    datasets: dict[str, str] = field(init=False)

    def start(self, name: str, **env: str) -> None:
        """Start a process; ``env`` is added to its environment."""
        if name not in self.databases:
            proxy = FaultProxy(self.postgres.port)
            self.databases[name] = self.opened.enter_context(proxy.running())
        database = self.database_url.rpartition("/")[2]
        url = f"postgresql://{self.user}@127.0.0.1:{self.databases[name].port}/{database}"
        own = {
            "REVERIE_DATABASE_URL": f"{url}?application_name={name}",
            "REVERIE_SCRATCH_DIR": str(self.fleet.home / f"scratch-{name}"),
        }
        self.fleet.start(name, **own, **env)

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection past the proxies."""
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            yield conn

    def ask(self, query: str, **facts: object) -> list[tuple[Any, ...]]:
        with self.connection() as conn:
            return conn.execute(query.encode(), facts).fetchall()

    def do(self, statement: str) -> None:
        with self.connection() as conn:
            conn.execute(statement.encode())

    def submit(self, datasets: dict[str, str] | None = None, **config: Any) -> str:
        """A run of 40 small steps, with changes."""
        small = {"max_train_steps": 40, "checkpoint_step_interval": INTERVAL, **config}
        return self.tenant.submit(small_run_request(datasets or self.datasets, **small))

    def push_photos(self, word: str, *, complete: bool = True) -> dict[str, str]:
        """The photographs as a dataset that shares no shard with others: each file ends so."""
        folder = self.fleet.home / "photos"
        files = {path.name: path.read_bytes() + word.encode() for path in folder.iterdir()}
        return {"photos": self.tenant.push(files, complete=complete)}

    def wait_decided(self, dataset_id: str) -> Json:
        """The dataset once it is verified."""

        def ask() -> Json | None:
            dataset = self.tenant.get(f"/v1/datasets/{dataset_id}")
            return dataset if dataset["status"] in ("ready", "rejected") else None

        return wait_until(ask, what="the dataset to be verified")

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """The process does nothing in this block."""
        self.fleet.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self.fleet.signal(name, signal.SIGCONT)

    def in_mid_run(self, run_id: str) -> Json:
        """Wait until the run trains and has a checkpoint."""
        return self.tenant.wait_for(
            run_id,
            lambda run: run["checkpoint_step"] >= INTERVAL,
            deadline_s=120,
            what="a checkpoint",
        )

    def in_training(self, run_id: str) -> Json:
        """Wait until the run has taken a step."""
        return self.tenant.wait_for(
            run_id, lambda run: run["step"] > 0, deadline_s=120, what="a step"
        )

    def ended_once(self, run_id: str) -> list[Json]:
        """Wait for the end of the run, check that it succeeded once; its attempts."""
        run = self.tenant.wait_over(run_id)
        assert run["status"] == "succeeded", run["status_reason"]
        assert run["step"] == run["max_steps"]
        assert len(self.tenant.events(run_id, "run.succeeded")) == 1
        assert self.tenant.wait_published(run_id)["status"] == "succeeded"
        assert len(self.tenant.get(f"/v1/publications?run_id={run_id}")["data"]) == 1
        assert self.breaches() == []
        attempts = sorted(run["attempts"], key=lambda attempt: attempt["fence"])
        assert [attempt["fence"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert attempts[-1]["outcome"] == "finished"
        return attempts

    def breaches(self) -> list[str]:
        """What the rows, and the order in which they were written, show to be wrong."""
        with self.connection() as conn:
            runs, attempts, entries = rows.runs(conn), rows.attempts(conn), audit.entries(conn)
        return [
            *check.committed_twice(runs, entries),
            *check.stale_writes(entries),
            *check.resumed_elsewhere(entries, attempts),
        ]

    def holder(self, run_id: str) -> str:
        """The trainer that claimed the run last."""
        query = "SELECT app FROM audit WHERE run_id = %(run_id)s AND what = 'claim' ORDER BY id"
        return str(self.ask(query, run_id=run_id)[-1][0])

    def child_events(self, trainer: str) -> list[Json]:
        """The events of the training process that runs under this trainer now, in order."""
        places = (self.fleet.home / f"scratch-{trainer}").glob("wrk_*/attempt-*/events.jsonl")
        lines = [line for path in places for line in _text_of(path).splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def children(self) -> set[int]:
        """Pids of all training processes."""
        return set(training_children(self.fleet.home))

    def logged(self, name: str, event: str) -> list[Json]:
        """The lines of a process's log for this event."""
        return [each for each in self.fleet.log_lines(name) if each["event"] == event]

    def stop_trainers(self) -> None:
        for name in list(self.fleet.processes):
            if name.startswith("trainer") and self.fleet.processes[name].poll() is None:
                self.fleet.processes[name].terminate()
                self.fleet.wait(name)


def _text_of(path: Path) -> str:
    """Empty where the attempt has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


ServiceOn: TypeAlias = Callable[[Bucket | None], contextlib.AbstractContextManager[ProxiedService]]
"""Runs the service with its objects in this bucket, or in a folder."""


@contextlib.contextmanager
def running_service(
    home: Path,
    *,
    postgres: PostgresServer,
    redis: RedisServer,
    models_dir: Path,
    bucket: Bucket | None = None,
) -> Iterator[ProxiedService]:
    """The service without a trainer, and a tenant with two photographs.

    Args:
        bucket: where objects are; None: in a folder.
    """
    with contextlib.ExitStack() as opened:
        store, objects = None, {"REVERIE_OBJECTS_URL": f"file://{home}/objects"}
        if bucket is not None:
            store = opened.enter_context(FaultProxy(bucket.port).running())
            objects = {**bucket.env, "REVERIE_OBJECTS_URL": bucket.at(store.port).url}
        database_url = postgres.create_database()
        fleet = Fleet(
            home,
            {
                "REVERIE_DATABASE_URL": database_url,
                "REVERIE_BROKER_URL": redis.url,
                "REVERIE_MODELS_DIR": str(models_dir),
                "REVERIE_LEASE_S": f"{LEASE_S:g}",
                "REVERIE_LOG_FORMAT": "json",
                "REVERIE_SIGNING_KEY": secrets.token_hex(32),
                **objects,
            },
        )
        service = ProxiedService(
            fleet=fleet,
            postgres=postgres,
            database_url=database_url,
            user=f"user_of_{database_url.rpartition('/')[2]}",
            store=store,
            opened=opened,
        )
        with service.connection() as conn:
            audit.install(conn)
            for statement in _USER:
                conn.execute(statement.format(user=service.user).encode())
        opened.callback(fleet.stop)
        for name in ("api", "dispatcher", "cache_builder", "results"):
            service.start(name)
        fleet.wait_ready()
        service.tenant = new_tenant(fleet, "ada")
        ((service.tenant_id,),) = service.ask("SELECT tenant_id FROM tenants")
        folder = small_photos(home / "photos")
        service.datasets = {"photos": service.tenant.push_folder(folder)}
        yield service
        fleet.stop()
        left = started_with("REVERIE_HOME", str(home))
        assert [each.pid for each in left] == []


_USER = (
    # It sees all rows, as the owner of the tables does.
    "CREATE ROLE {user} LOGIN BYPASSRLS IN ROLE reverie_api",
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}",
)
