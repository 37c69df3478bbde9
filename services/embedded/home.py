"""The folder that holds everything of one stack: layout, lock, secrets, and who ran here before."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.embedded.errors import HomeInUseError, StackError
from services.embedded.processes import ProcessId, descendants, end_all, identify, is_alive

DEFAULT_HOME = "~/.reverie"


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """Made once per home and kept in ``secrets.json`` (0600)."""

    postgres_password: str
    broker_password: str
    signing_key: str
    """Hex; signs the folder store's URLs."""
    api_key: str | None
    """Of the first tenant; None until the database stands."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one stack; makes nothing until ``prepare``."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    @property
    def publications(self) -> Path:
        return self.path / "publications"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def pids(self) -> Path:
        """One file per child: pid and start ticks."""
        return self.path / "run"

    def prepare(self) -> None:
        """Make the folders. A home that root makes can be passed through, not listed, by others:
        the servers run as another user below it. A folder that stood already keeps its mode."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        folders = (
            self.logs,
            self.models,
            self.objects,
            self.publications,
            self.scratch,
            self.pids,
        )
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> int:
        """Take the home for this process; the lock goes with the returned descriptor.

        Raises:
            HomeInUseError: another stack runs here.
        """
        descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HomeInUseError(
                f"a stack is running in {self.path}; stop it, or set REVERIE_HOME to another folder"
            ) from None
        return descriptor

    def secrets(self) -> Secrets:
        """The secrets of this home; made on the first call."""
        file = self.path / "secrets.json"
        if file.exists():
            return Secrets(**json.loads(file.read_text()))
        fresh = Secrets(
            postgres_password=secrets.token_hex(24),
            broker_password=secrets.token_hex(24),
            signing_key=secrets.token_hex(32),
            api_key=None,
        )
        self.keep_secrets(fresh)
        return fresh

    def keep_secrets(self, kept: Secrets) -> None:
        body = {name: getattr(kept, name) for name in Secrets.__slots__}
        write_private(self.path / "secrets.json", body)

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Write ``stack.json`` (0600): what a client on this machine needs to find the service."""
        write_private(self.path / "stack.json", facts)

    def retract(self) -> None:
        (self.path / "stack.json").unlink(missing_ok=True)

    def remember(self, name: str, pid: int) -> None:
        """Note a child, so that the next stack can end it if we cannot."""
        if (process := identify(pid)) is not None:
            facts = {"pid": process.pid, "start_ticks": process.start_ticks}
            write_private(self.pids / f"{name}.json", facts)

    def forget(self, name: str) -> None:
        (self.pids / f"{name}.json").unlink(missing_ok=True)

    def clear_leftovers(self) -> list[str]:
        """End what a killed stack left running; names of what was found. Hold the lock first."""
        found = []
        for file in sorted(self.pids.glob("*.json")):
            process = ProcessId(**json.loads(file.read_text()))
            if is_alive(process):
                found.append(file.stem)
                below = descendants([process.pid])
                # SIGINT is PostgreSQL's fast shutdown; whoever ignores it is killed after a while.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
                end_all([process, *below], grace_s=10)
                if is_alive(process):
                    raise StackError(f"{file.stem} (pid {process.pid}) of an older stack stays")
            file.unlink()
        return found


def write_private(file: Path, body: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step, readable by its owner only."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(body, stream)
    fresh.replace(file)
