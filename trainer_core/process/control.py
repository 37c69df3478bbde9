"""Requests to a running training process: one word in a control file, or SIGTERM.

The supervisor replaces the file; every rank reads it between steps.
"""

import signal
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn

from trainer_core.errors import TrainerError

_POLL_S: Final = 0.05


class ControlRequest(StrEnum):
    """The possible contents of a control file, least urgent first. A missing file means ``run``."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


class StopRequestedError(TrainerError):
    """Not a failure: the run stops with a checkpoint of its last complete step."""

    code = "stop_requested"


def write_control(path: Path, request: ControlRequest) -> None:
    """Replace the control file atomically: a reader sees the old request or the new one."""
    draft = path.with_suffix(".new")
    draft.write_text(request.value, encoding="utf-8")
    draft.replace(path)


class Control:
    """The requests to one training process: those of its control file, and SIGTERM."""

    def __init__(self, path: Path | None) -> None:
        """``path``: the control file; None: only signals count."""
        self._path = path
        self._stop = threading.Event()
        self._is_interrupted = False
        self._last = ControlRequest.RUN
        self._unknown: str | None = None
        """The invalid text that the file had when it was last read; None if it was valid."""
        self._warn: Callable[[str], None] = lambda _: None

    def on_unknown(self, warn: Callable[[str], None]) -> None:
        """Call ``warn`` with a message once for each invalid text in the file."""
        self._warn = warn

    def stop_on_sigterm(self) -> None:
        """From now on SIGTERM requests a stop instead of ending the process; main thread only."""
        signal.signal(signal.SIGTERM, lambda *_: self.request_stop())

    def request_stop(self) -> None:
        """From now on a stop is requested, whatever the file holds."""
        self._stop.set()

    def interrupt(self) -> NoReturn:
        """For a signal handler: raise KeyboardInterrupt, and remember that it was raised.

        It is raised wherever the process is. A library may catch it there, or raise another error
        for it: see ``requested`` and ``was_interrupted``.
        """
        self._is_interrupted = True
        raise KeyboardInterrupt

    @property
    def was_interrupted(self) -> bool:
        """Whether ``interrupt`` was called, so that any later error is due to it."""
        return self._is_interrupted

    def requested(self) -> ControlRequest:
        """The current request; an invalid text in the file leaves the earlier request in force.

        Raises KeyboardInterrupt if the process was interrupted, and a library has caught it.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
        if self._stop.is_set():
            return ControlRequest.STOP
        try:
            body = self._path.read_bytes() if self._path else b""
        except FileNotFoundError:
            body = b""
        text = body.decode(errors="replace").strip()
        try:
            self._last = ControlRequest(text or ControlRequest.RUN)
        except ValueError:
            if text != self._unknown:
                self._unknown = text
                known = ", ".join(ControlRequest)
                self._warn(
                    f"The control file has {text[:40]!r}, which is none of {known}. The request "
                    f"{self._last} stays in force."
                )
        else:
            self._unknown = None
        return self._last

    def check_stop(self) -> None:
        """Raise StopRequestedError if a stop is requested; errors as in ``requested``."""
        if self.requested() is ControlRequest.STOP:
            raise StopRequestedError("a stop was requested")

    def wait(self) -> None:
        """Sleep until the file should be read again.

        Not by waiting for the event of ``request_stop``: a signal handler that sets it may
        interrupt the wait while it holds the event's lock, and would never return.
        """
        time.sleep(_POLL_S)
