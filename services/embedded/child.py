"""One supervised child: started so that it dies with us, logged to a file, ended for certain."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.embedded import launch
from services.embedded.home import Home
from services.embedded.owner import Owner


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """What to run and how it wants to be stopped."""

    name: str
    command: tuple[str, ...]
    """The first is an absolute path."""
    env: Mapping[str, str]
    owner: Owner
    is_server: bool
    """A server's end ends the stack; a process is started again."""
    stop_signal: signal.Signals
    """Asks for an orderly end."""
    stop_s: float
    """How long that may take before the kill."""
    orphan_signal: signal.Signals
    """What the kernel sends when we die without a word."""


class Child:
    """A running child; ``start`` must be called on a thread that outlives it.

    The kernel sends the orphan signal when the *thread* that started the child ends (prctl(2)).
    """

    def __init__(self, spec: ChildSpec, home: Home) -> None:
        self.spec = spec
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at_s = 0.0
        """Of ``time.monotonic``."""

    @property
    def log_file(self) -> Path:
        return self._home.logs / f"{self.spec.name}.log"

    @property
    def pid(self) -> int | None:
        """Of the living child; None where it is not running."""
        return None if self.exit_code() is not None or self._process is None else self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs (or has never been started)."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        spec = self.spec
        launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__))]
        numbers = (spec.orphan_signal, os.getpid(), spec.owner.uid, spec.owner.gid)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, *(str(int(n)) for n in numbers), *spec.command],
                env=dict(spec.env),
                cwd="/" if spec.owner.is_other else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on, in order
            )
        self.started_at_s = time.monotonic()
        self._home.remember(spec.name, self._process.pid)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.spec.stop_signal)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it and whatever shares its process group, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._home.forget(self.spec.name)

    def last_lines(self, count: int = 8) -> str:
        """The end of its log, for an error message."""
        if not self.log_file.exists():
            return "(no log)"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-count:])
