"""A real PostgreSQL for the tests: one server a session, one empty migrated database a test."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from services.processes.tree import descendants
from services.store.database import Database
from services.store.migrate import migrate
from tests.support import emptying
from tests.support.api_keys import KEY_PEPPER
from tests.support.ports import free_port

StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_USER = "postgres"
_TEMPLATE = "reverie_template"


def _binaries() -> Path:
    """The folder of the newest installed server, 15 or later."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not versions:
        raise RuntimeError("PostgreSQL is not installed: no `postgres` on the PATH")
    return versions[-1]


class PostgresServer:
    """One server on loopback; its port and its data stay the same over stop, kill and start."""

    def __init__(self) -> None:
        self._bin = _binaries()
        # Not below pytest's own folders: those are closed to the user that the server runs as.
        self._folder = Path(tempfile.mkdtemp(prefix="reverie-postgres-"))
        self._data = self._folder / "data"
        self._log = self._folder / "server.log"
        self._user = _USER if os.geteuid() == 0 else None  # the server refuses to run as root
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._emptied: list[str] = []
        """Names of databases that are as new ones."""
        self._definitions: list[tuple[object, ...]] = []
        self._kept_rows: dict[str, list[str]] = {}
        """Of the template; ``make_template`` reads them."""
        initdb = [self._bin / "initdb", "-D", self._data, "-U", _USER, "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*initdb, "--no-sync", "--locale=C"],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder,
        )

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def start(self, *, deadline_s: float = 30) -> None:
        """Start it and wait until it answers.

        The start is retried while processes of a killed server are still ending.
        """
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",  # data survive every kill, though not a power cut
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdout=log, stderr=log, user=self._user, cwd=self._folder
                )
            if self._answers_before(end):
                return
        raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()[-2000:]}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it as ``pg_ctl stop -m <mode>`` does; ``immediate`` is a crash with recovery."""
        assert self._process is not None
        self._process.send_signal(_SIGNALS[mode])
        self._process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL to the server's first process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP to every process of the server."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def create_database(self) -> str:
        """A database with the current schema and no rows; returns its URL, which is a new one."""
        name = f"reverie_{next(self._names)}"
        with psycopg.connect(self.url(), autocommit=True) as conn:
            if self._emptied:
                # What a process of an earlier test still wants finds nothing under the old name.
                conn.execute(f"ALTER DATABASE {self._emptied.pop()} RENAME TO {name}")
            else:
                conn.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Take back what ``create_database`` made, even while clients are connected.

        It is emptied for another test, or dropped where the test changed more than rows.
        """
        name = url.rpartition("/")[2]
        with psycopg.connect(url, autocommit=True) as conn:
            is_as_new = emptying.definitions(conn) == self._definitions and emptying.empty(
                conn, self._kept_rows
            )
        if is_as_new:
            self._emptied.append(name)
            return
        with psycopg.connect(self.url(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def make_template(self) -> None:
        with psycopg.connect(self.url(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {_TEMPLATE}")
        migrate(self.url(_TEMPLATE), KEY_PEPPER)
        with psycopg.connect(self.url(_TEMPLATE), autocommit=True) as conn:
            self._kept_rows = emptying.kept_rows(conn)
            self._definitions = emptying.definitions(conn)

    def remove(self) -> None:
        """Stop it and delete its data."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers_before(self, end: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < end:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        time.sleep(0.1)
        return False

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        first = self._process.pid
        for pid in (first, *(each.pid for each in descendants([first]))):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server. A test that stops it starts it again before it ends."""
    server = PostgresServer()
    try:
        server.start()
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database with the current schema and no rows, for this test alone."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, max_size=24)
    yield database
    database.close()
