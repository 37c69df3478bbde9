"""A child that can be restarted, with its log file and its pid file."""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.processes.child import ChildProcess, log_tail
from services.processes.launch import launch_command
from services.processes.pid_files import write_pid_file

_SHOWN_LINES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """How a child is started and stopped."""

    name: str
    """Names its log and its pid file."""
    command: tuple[str, ...]
    """The command; its first part is an absolute path."""
    env: Mapping[str, str]
    uid: int = -1
    """The user that it runs as, in the folder ``/``; -1 for the user of this process."""
    gid: int = -1
    is_server: bool
    """If a server ends by itself, everything is stopped. Other children are restarted."""
    stop_signal: signal.Signals
    """The signal for an orderly exit."""
    stop_s: float
    """Time for the orderly exit before the kill."""
    orphan_signal: signal.Signals
    """The signal that the kernel sends to it when this process dies."""


class SupervisedChild:
    """A child that can be restarted; call ``start`` on a thread that lives longer than the child.

    The kernel sends the orphan signal when the *thread* that started the child ends (prctl(2)).
    """

    def __init__(self, spec: ChildSpec, *, logs: Path, pids: Path) -> None:
        """Does not start it yet; its log is appended to ``logs/NAME.log``."""
        self.spec = spec
        self.log_file = logs / f"{spec.name}.log"
        self.started_at_s = 0.0
        """Of ``time.monotonic``."""
        self._pid_file = pids / f"{spec.name}.json"
        self._process: ChildProcess | None = None

    def start(self) -> None:
        spec = self.spec
        command = launch_command(
            spec.command, orphan_signal=spec.orphan_signal, uid=spec.uid, gid=spec.gid
        )
        folder = Path("/") if spec.uid >= 0 else None
        self._process = ChildProcess(command, env=spec.env, folder=folder, log_file=self.log_file)
        self.started_at_s = time.monotonic()
        write_pid_file(self._pid_file, self._process.pid)

    @property
    def pid(self) -> int | None:
        """None where it is not running."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    @property
    def has_ended(self) -> bool:
        """Whether it was started and has ended."""
        return self.exit_status is not None

    @property
    def exit_status(self) -> int | None:
        """None while it runs, and if it was never started."""
        return None if self._process is None else self._process.exit_status

    def exit_in_words(self) -> str:
        """How it ended: ``SIGKILL`` or ``exit status 1``. Call it only after the end."""
        assert self._process is not None, f"{self.spec.name} was never started"
        return self._process.exit_in_words()

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.spec.stop_signal)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, up to a time; whether it has ended."""
        return self._process is None or self._process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it and its descendants, also those that are left after an orderly exit."""
        if self._process is not None:
            self._process.kill()
            self.forget()

    def forget(self) -> None:
        """Remove the pid file of a child that has ended."""
        self._pid_file.unlink(missing_ok=True)

    def log_in_words(self) -> str:
        """Where its log is and how it ends, for an error message."""
        lines = log_tail(self.log_file).splitlines()[-_SHOWN_LINES:]
        return f"its log is {self.log_file}:\n" + "\n".join(lines or ["(empty)"])
