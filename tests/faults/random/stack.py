"""The service under faults: real servers behind proxies, and a supervisor that restarts processes.

A process gets a new name at each start (``trainer-7``), under which it also connects to the
database. What keeps its place is the slot (``trainer_b``), as a replica of a deployment does.
"""

import contextlib
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from services.store.database import Database
from services.store.worker_keys import WorkerKey
from tests.faults.random import audit
from tests.support.box_process import box_env
from tests.support.boxes import new_worker_key
from tests.support.fleet import Fleet
from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, Process, server_of
from tests.support.odd_clock import OddClock
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.redis import RedisServer
from tests.support.rgw import Bucket, RgwServer
from tests.support.tls import new_authority

LEASE_S = 4.0
_SLOTS = {
    "api": "api",
    "dispatcher_a": "dispatcher",
    "dispatcher_b": "dispatcher",
    "builder_a": "cache_builder",
    "builder_b": "cache_builder",
    "results": "results",
    "trainer_a": "trainer",
    "trainer_b": "trainer",
    "box_a": "box",
    "box_b": "box",
}
FULL_DISK = "trainer_a"
"""The trainer whose scratch is a small file system."""
ODD_CLOCK = "trainer_b"
"""The trainer whose clock can be set."""
_SMALL_DISK_BYTES = 256 << 20
_RESTART_S = 0.3
"""As long as a deployment needs at least to notice a dead process."""
_READY_S = 90


@dataclass(kw_only=True)
class Stack:
    """Everything that runs; ``running_stack`` makes one."""

    home: Path
    fleet: Fleet
    postgres: PostgresServer
    redis: RedisServer
    bucket: Bucket
    proxies: Mapping[str, FaultProxy]
    """``postgres``, ``redis``, ``s3``, and ``https``: the API as boxes reach it."""
    ca_file: Path
    database_url: str
    """Past the proxy."""
    small_disk: Path | None
    clock: OddClock | None
    slots: dict[str, str] = field(default_factory=dict)
    """Slot → name of its process."""
    boxes: dict[str, WorkerKey] = field(default_factory=dict)
    """Slot → what its key makes of it."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Slot of a box → its key."""
    restarts: int = 0
    _starts: dict[str, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._start("api")
        self.fleet.wait_ready(deadline_s=_READY_S)
        for slot in _SLOTS:
            if slot != "api":
                self._start(slot)

    def supervise(self) -> None:
        """Start each process that has ended again, until ``close``."""
        while not self._closing.wait(_RESTART_S):
            with self._lock:
                for slot, name in list(self.slots.items()):
                    if self.fleet.processes[name].poll() is not None:
                        self.restarts += 1
                        self._start(slot)

    def close(self) -> list[str]:
        """Stop all processes in order; the names of those that did not end by themselves."""
        self._closing.set()
        with self._lock:
            living = [self.fleet.processes[name] for name in self.slots.values()]
            self.fleet.stop()
        names = {id(self.fleet.processes[name]): name for name in self.slots.values()}
        return [names[id(each)] for each in living if each.returncode == -signal.SIGKILL]

    def process(self, slot: str) -> Process:
        with self._lock:
            return self.fleet.processes[self.slots[slot]]

    def box_of(self, worker_id: str) -> str | None:
        """The slot of the box that is this worker; None for any other worker."""
        return next((s for s, key in self.boxes.items() if key.worker_id == worker_id), None)

    def slot_of(self, name: str) -> str | None:
        """The slot of a process by its name in the database; None where it has ended."""
        with self._lock:
            return {current: slot for slot, current in self.slots.items()}.get(name)

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection past the proxy; raises psycopg.OperationalError while the server is down."""
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as conn:
            yield conn

    def _start(self, slot: str) -> None:
        kind = _SLOTS[slot]
        self._starts[kind] = self._starts.get(kind, 0) + 1
        name = f"{kind}-{self._starts[kind]}"
        env = {
            "REVERIE_DATABASE_URL": f"{self.fleet.env['REVERIE_DATABASE_URL']}"
            f"?application_name={name}",
            "REVERIE_SCRATCH_DIR": str(self.home / f"scratch-{slot}"),
        }
        if slot == FULL_DISK and self.small_disk is not None:
            env["REVERIE_SCRATCH_DIR"] = str(self.small_disk / "scratch")
        if slot == ODD_CLOCK and self.clock is not None:
            env |= self.clock.env
        if kind == "box":
            env |= self._box_env(slot)
        self.fleet.start(name, **env)
        self.slots[slot] = name

    def _box_env(self, slot: str) -> dict[str, str]:
        if slot not in self.boxes:
            with contextlib.closing(Database(self.database_url, max_size=1)) as database:
                self.boxes[slot], self.secrets[slot] = new_worker_key(database, slot)
        url = f"https://127.0.0.1:{self.proxies['https'].port}"
        program = child_command(server_of(TRAINING).address)
        return {
            **dict.fromkeys(self.bucket.env, ""),
            **box_env(url, self.ca_file, self.secrets[slot], program),
        }


@contextlib.contextmanager
def running_stack(home: Path) -> Iterator[Stack]:
    """All servers, proxies and processes; ``close`` the stack before the block ends."""
    with contextlib.ExitStack() as opened:
        postgres = PostgresServer()
        opened.callback(postgres.remove)
        postgres.start()
        postgres.make_template()
        redis = RedisServer()
        opened.callback(redis.stop)
        redis.start()
        rgw = RgwServer()
        opened.callback(rgw.stop)
        rgw.start()
        bucket = rgw.s3.create_bucket()
        proxies = {
            name: opened.enter_context(FaultProxy(port).running())
            for name, port in {
                "postgres": postgres.port,
                "redis": redis.port,
                "s3": bucket.port,
            }.items()
        }
        models_dir = home / "models"
        make_tiny = ("make-tiny", str(models_dir / "hidream-tiny"))
        subprocess.run([*child_command(server_of(TRAINING).address), *make_tiny], check=True)
        database_url = postgres.create_database()
        with psycopg.connect(database_url, autocommit=True) as conn:
            audit.install(conn)
        fleet = Fleet(
            home,
            {
                "REVERIE_DATABASE_URL": database_url.replace(
                    f":{postgres.port}/", f":{proxies['postgres'].port}/"
                ),
                "REVERIE_BROKER_URL": f"redis://127.0.0.1:{proxies['redis'].port}/0",
                "REVERIE_OBJECTS_URL": bucket.at(proxies["s3"].port).url,
                **bucket.env,
                "REVERIE_MODELS_DIR": str(models_dir),
                "REVERIE_LEASE_S": f"{LEASE_S:g}",
                "REVERIE_RENEW_S": "0.6",
                "REVERIE_LOG_FORMAT": "json",
                "REVERIE_SIGNING_KEY": secrets.token_hex(32),
            },
            modules={
                "box": "tests.support.box_process",
            },
        )
        ca_file, tls = new_authority(home)
        proxies["https"] = opened.enter_context(FaultProxy(fleet.port, tls).running())
        stack = Stack(
            home=home,
            fleet=fleet,
            postgres=postgres,
            redis=redis,
            bucket=bucket,
            proxies=proxies,
            ca_file=ca_file,
            database_url=database_url,
            small_disk=small_disk(home / "small-disk", opened),
            clock=_clock(home),
        )
        opened.callback(stack.close)
        stack.start()
        threading.Thread(target=stack.supervise, name="supervisor", daemon=True).start()
        yield stack


def small_disk(folder: Path, opened: contextlib.ExitStack) -> Path | None:
    """A file system of its own, unmounted at the end; None where this user may not mount one."""
    folder.mkdir()
    size = f"size={_SMALL_DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        return None
    opened.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return folder


def _clock(folder: Path) -> OddClock | None:
    """None where the library cannot be compiled."""
    try:
        return OddClock(folder)
    except RuntimeError:
        return None


def wait_for_server(stack: Stack, deadline_s: float = 30) -> None:
    """Wait until PostgreSQL answers."""
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            with stack.database():
                return
        except psycopg.OperationalError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)
