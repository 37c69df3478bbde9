"""A whole Reverie of real processes, which tests start, kill, freeze and replace one by one.

Every process runs ``python -m services.<name>`` as an operator would run it, with short leases, and
starts as a fork (see ``forking``). The servers are Debian's PostgreSQL and Redis, and the object
store that the test names.
"""

import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from services.processes.tree import descendants
from services.secrets.keys import new_private_key, public_text
from tests.support.api_keys import KEY_PEPPER
from tests.support.forked_trainer import SOCKET
from tests.support.forking import API, SERVICES, TRAINING, Process, server_of, start_module
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from trainer_core.process.stat import read_stat

T = TypeVar("T")

_FORKING = {
    "cache_builder": "tests.support.forked_builder",
    "trainer": "tests.support.forked_trainer",
}
"""What starts ``trainer_core`` as a fork."""

FAST = {
    "REVERIE_ENV": "test",
    "REVERIE_LEASE_S": "3",
    "REVERIE_RENEW_S": "0.5",
    "REVERIE_HEARTBEAT_S": "0.5",
    "REVERIE_OFFER_S": "2",
    "REVERIE_POLL_S": "0.2",
    "REVERIE_STALL_S": "120",
    "REVERIE_SINGLE_TENANT": "true",
    "OMP_NUM_THREADS": "1",
}

_PRIVATE_KEY = new_private_key()
_ONLY_FOR = {
    "api": {"REVERIE_SECRETS_PUBLIC_KEY": public_text(_PRIVATE_KEY)},
    "results": {"REVERIE_SECRETS_PRIVATE_KEYS": _PRIVATE_KEY},
}
"""What only one kind of process is given."""


def children_of(pid: int) -> list[int]:
    """Pids of the living direct children of a process."""
    stats = {each.pid: read_stat(each.pid) for each in descendants([pid])}
    return [each for each, stat in stats.items() if stat is not None and stat.parent_pid == pid]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def training_children(home: Path) -> dict[int, str]:
    """Every training process whose job is below ``home``: pid → command line."""
    commands = {
        int(p.name): command_of(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()
    }
    mark = f"--job {home}/"
    return {pid: line for pid, line in commands.items() if mark in line}


class Fleet:
    """Processes by name (``api``, ``dispatcher``, ``trainer-1``, …) over given servers."""

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Nothing is started yet.

        Args:
            modules: what to start in place of ``services.<name>``, by name.
            fresh: no forks: for tests that look at the environment or the memory of processes.
        """
        self.home = home
        self._modules = {**({} if fresh else _FORKING), **(modules or {})}
        self._fresh = fresh
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home.mkdir(parents=True, exist_ok=True)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("REVERIE_")},
            **FAST,
            "REVERIE_HOME": str(home),
            "REVERIE_API_URL": self.url,
            "REVERIE_SCRATCH_DIR": str(home / "scratch"),
            "REVERIE_PUBLICATIONS_DIR": str(home / "publications"),
            "REVERIE_SIGNING_KEY": "5f" * 32,
            "REVERIE_KEY_PEPPER": KEY_PEPPER.hex(),
            **env,
        }
        self.processes: dict[str, Process] = {}

    def start(self, name: str, *, fresh: bool = False, **env: str) -> Process:
        """Start ``python -m services.<name without -n>``; its log is ``<home>/<name>.log``.

        Args:
            fresh: it is no fork; what it starts still is, where the fleet's processes are.
        """
        kind = name.partition("-")[0]
        module = self._modules.get(kind, f"services.{kind}")
        arguments = ["--host", "127.0.0.1", "--port", str(self.port)] if kind == "api" else []
        imported = API if kind == "api" else SERVICES
        own = dict(_ONLY_FOR.get(kind, {}))
        if module in _FORKING.values():
            own[SOCKET] = str(server_of(TRAINING).address)
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = start_module(
                module,
                arguments,
                env={**self.env, **own, **env},
                output=log,
                kind=None if self._fresh or fresh else imported,
            )
        return self.processes[name]

    def start_api(self) -> None:
        """The API, and nothing else; it is ready."""
        self.start("api")
        self.wait_ready()

    def start_all(self, trainers: int = 1) -> None:
        for name in ("api", "dispatcher", "cache_builder", "results"):
            self.start(name)
        for n in range(1, trainers + 1):
            self.start(f"trainer-{n}")
        self.wait_ready()

    def wait_ready(self, deadline_s: float = 120) -> None:
        wait_until(self._is_ready, deadline_s=deadline_s, what="the API to be ready")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a running process; the test fails where it has ended."""
        process = self.processes[name]
        assert process.poll() is None, (
            f"{name} was gone before the {number.name}: {self.tail(name)}"
        )
        process.send_signal(number)

    def wait(self, name: str, *, deadline_s: float = 60) -> int:
        return self.processes[name].wait(timeout=deadline_s)

    def tail(self, name: str, size: int = 4000) -> str:
        log = self.home / f"{name}.log"
        return log.read_text(errors="replace")[-size:] if log.exists() else ""

    def log_lines(self, name: str) -> list[dict[str, Any]]:
        """What the process has logged as JSON; libraries may print other lines."""
        text = (self.home / f"{name}.log").read_text(errors="replace")
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def stop(self) -> None:
        """End every process: SIGTERM, then SIGKILL for what stays, with a warning that names it."""
        living = {name: p for name, p in self.processes.items() if p.poll() is None}
        for process in living.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        end = time.monotonic() + 30
        for name, process in living.items():
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                warnings.warn(
                    f"{name} has not ended by SIGTERM: {self.tail(name, 1000)}", stacklevel=2
                )
                process.kill()
                process.wait()
