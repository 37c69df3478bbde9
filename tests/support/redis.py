"""A real redis-server on a free loopback port. It stores nothing: a kill loses everything."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.ports import free_port

START_DEADLINE_S = 20.0


class RedisServer:
    """One redis-server process; it keeps its port across restarts and never writes to disk."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: for its log; without one, a temporary folder is used until ``stop``."""
        self._own_folder = tempfile.TemporaryDirectory(prefix="redis-") if folder is None else None
        self._folder = folder or Path(self._own_folder.name if self._own_folder else "")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start empty and wait until it answers; raises RuntimeError where it does not."""
        assert self._process is None, "already running"
        binary = shutil.which("redis-server")
        if binary is None:
            raise RuntimeError("redis-server is not installed (Debian package redis-server)")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [binary, *options, "--appendonly", "no", "--dir", str(self._folder)],
            stdout=(self._folder / "redis.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "redis.log").read_text(errors="replace")
                self.kill()
                raise RuntimeError(f"redis-server did not start: {log[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: everything that it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Kill it and remove its own folder."""
        self.kill()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def restart_empty(self) -> None:
        """Kill it and start an empty one on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, but nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL on the running server."""
        with self.client() as client:
            client.flushall()

    def client(self) -> "redis.Redis":
        """A new connection; close it, or use it as a context manager."""
        return redis.Redis(port=self.port, socket_timeout=5.0)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A fresh, empty, running server for this test alone (about 0.1 s)."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One running server for all tests of a module; call flush() where that matters."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
