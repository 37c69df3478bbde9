"""A child process in its own session, which can be killed with all its descendants."""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import structlog

from services.processes.tree import descendants, send_signal, started_with
from trainer_core.process.stat import ProcessId, identify

log = structlog.get_logger(__name__)

_MARK: Final = "REVERIE_CHILD_ID"
"""Environment variable of a child and its descendants; they are found by it after its death."""
_KILL_DEADLINE_S: Final = 5.0
_KILL_TICK_S: Final = 0.01
_TAIL_BYTES: Final = 2000


class ChildProcess:
    """A running child. It has its own session, so Ctrl-C at the terminal does not reach it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path | None = None,
        log_file: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            env: its whole environment; one variable is added, by which descendants are found.
            folder: its working directory; None for that of this process.
            log_file: its output is appended to it. Without one, standard output is discarded and
                standard error is inherited.
            stdin: a descriptor, or one of the constants of ``subprocess``.
            pass_fds: further descriptors that it inherits.

        Raises OSError where the log or the program cannot be opened.
        """
        self._mark = uuid.uuid4().hex
        with contextlib.ExitStack() as opened:
            output: IO[bytes] | int = subprocess.DEVNULL
            errors: int | None = None
            if log_file is not None:
                output = opened.enter_context(log_file.open("ab"))
                errors = subprocess.STDOUT
            self._process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=errors,
                pass_fds=pass_fds,
                cwd=folder,
                env={**env, _MARK: self._mark},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self.exit_status is None

    @property
    def exit_status(self) -> int | None:
        """None while it runs; -N if it was ended by signal N."""
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; no effect where it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, up to a time; whether it has ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to it and to all its descendants; returns when they have ended.

        Descendants are found by an environment variable, also after the child's own death. A
        process group would not be enough, because torch's launcher gives each rank a session, and a
        rank whose launcher was killed has another parent.
        """
        deadline_s = time.monotonic() + _KILL_DEADLINE_S
        while living := self._living():
            if time.monotonic() > deadline_s:
                log.warning("processes_survive", pids=[each.pid for each in living])
                break
            for each in living:
                send_signal(each, signal.SIGKILL)
            time.sleep(_KILL_TICK_S)
        self._process.wait()

    def exit_in_words(self) -> str:
        """How it ended: ``SIGKILL`` or ``exit status 1``. Call it only after the end."""
        status = self.exit_status
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"

    def _living(self) -> set[ProcessId]:
        living = set(started_with(_MARK, self._mark))
        if self.is_running:  # its pid is not reused before it is waited for
            own = identify(self.pid)
            living |= {*descendants([self.pid]), *([] if own is None else [own])}
        return living


def log_tail(log_file: Path) -> str:
    """The last 2000 bytes of a log file, for a message; empty where there is no file."""
    try:
        with log_file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
