"""One child process: started in a session of its own, waited for, and killed for certain."""

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
"""In the environment of a child and all that it starts, so that they are found after its death."""
_KILL_DEADLINE_S: Final = 5.0
_KILL_TICK_S: Final = 0.01
_TAIL_BYTES: Final = 2000


class ChildProcess:
    """A running child. A Ctrl-C at the terminal does not reach it: its session is its own."""

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
            env: its whole environment, but for a mark that is added.
            folder: where it runs; None for the folder of this process.
            log_file: what it prints is appended to it. Without one its standard output is dropped,
                and its standard error is that of this process.
            stdin: a descriptor; without one it reads an empty file.
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
        """None while it runs; -N where signal N ended it."""
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens where it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to it and to everything that it started; returns when they are gone.

        Those that it started are found after its own death, too. A launcher of several ranks gives
        each a session of its own, so a process group is not enough, and a rank whose launcher was
        killed has another parent.
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
        """``SIGKILL`` or ``exit status 1``; only of one that has ended."""
        status = self.exit_status
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"

    def _living(self) -> set[ProcessId]:
        living = set(started_with(_MARK, self._mark))
        if self.is_running:  # until it is waited for, its pid is no other process's
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
