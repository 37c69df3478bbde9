"""What the supervisor requests of a running training: one line in a file, or SIGTERM.

The supervisor replaces the file, every rank reads it between steps.
"""

import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from trainer_core.errors import TrainerError

_POLL_S: Final = 0.2


class ControlRequest(StrEnum):
    """What a control file may hold, the least urgent first. A missing file means ``run``."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


class StopRequestedError(TrainerError):
    """Not a failure: the run ends here, with a checkpoint of its last whole step."""

    code = "stop_requested"


def write_control(path: Path, request: ControlRequest) -> None:
    """Replace the control file as one step: a reader sees the old request or the new one."""
    draft = path.with_suffix(".new")
    draft.write_text(request.value, encoding="utf-8")
    draft.replace(path)


class Control:
    """The requests to one training process: those of its control file, and SIGTERM."""

    def __init__(self, path: Path | None) -> None:
        """``path``: the control file; None where only signals count."""
        self._path = path
        self._stop = threading.Event()
        self._last = ControlRequest.RUN
        self._unknown: str | None = None
        """What the file held at the last look, where that is no request."""
        self._warn: Callable[[str], None] = lambda _: None

    def on_unknown(self, warn: Callable[[str], None]) -> None:
        """Call ``warn`` once for each text in the file that is no request."""
        self._warn = warn

    def stop_on_sigterm(self) -> None:
        """From now on SIGTERM requests a stop instead of ending the process; main thread only."""
        signal.signal(signal.SIGTERM, lambda *_: self.request_stop())

    def request_stop(self) -> None:
        """From now on a stop is requested, whatever the file holds."""
        self._stop.set()

    def requested(self) -> ControlRequest:
        """The request now in force; a text in the file that is no request changes nothing."""
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
                    f"The control file says {text[:40]!r}, which is none of {known}: the run goes "
                    f"by {self._last} as before."
                )
        else:
            self._unknown = None
        return self._last

    def check_stop(self) -> None:
        """Raise StopRequestedError where a stop is requested."""
        if self.requested() is ControlRequest.STOP:
            raise StopRequestedError("a stop was requested")

    def wait(self) -> None:
        """Sleep until the next look at the file; a request to stop ends the sleep."""
        self._stop.wait(_POLL_S)
