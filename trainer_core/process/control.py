"""What the supervisor wants: one word in a file, or SIGTERM; looked at between steps."""

import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from trainer_core.errors import TrainerError

_LOOK_EVERY_S: Final = 0.2


class Word(StrEnum):
    """What the control file may say; a missing file says ``run``."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


class StopRequestedError(TrainerError):
    """Not a failure: the run is to end here, with a checkpoint of its last whole step."""

    code = "stop_requested"


class Control:
    """The supervisor's word, and SIGTERM."""

    def __init__(self, path: Path | None) -> None:
        """``path`` None: only signals are heeded."""
        self._path = path
        self._signalled = threading.Event()
        self._last = Word.RUN
        self._unknown: str | None = None
        """What the file says where that is no word; None where it is one."""
        self._complain: Callable[[str], None] = lambda _: None

    def on_unknown(self, complain: Callable[[str], None]) -> None:
        """Have ``complain`` told, once, of what is no word."""
        self._complain = complain

    def heed_sigterm(self) -> None:
        """From now on SIGTERM asks to stop instead of ending the process; main thread only."""
        signal.signal(signal.SIGTERM, lambda *_: self.ask_to_stop())

    def ask_to_stop(self) -> None:
        """From now on the word is ``stop``, whatever the file says."""
        self._signalled.set()

    def word(self) -> Word:
        """What is wanted now; where the file says no word, the one before stays in force."""
        if self._signalled.is_set():
            return Word.STOP
        try:
            body = self._path.read_bytes() if self._path else b""
        except FileNotFoundError:
            body = b""
        text = body.decode(errors="replace").strip()
        try:
            self._last = Word(text or Word.RUN)
        except ValueError:
            if text != self._unknown:
                self._unknown = text
                known = ", ".join(Word)
                self._complain(
                    f"The control file says {text[:40]!r}, which is none of {known}: the run goes "
                    f"by {self._last} as before."
                )
        else:
            self._unknown = None
        return self._last

    def check(self) -> None:
        """Raise StopRequestedError where a stop is asked for."""
        if self.word() is Word.STOP:
            raise StopRequestedError("a stop was asked for")

    def wait(self) -> None:
        """A moment before the next look; shorter where a signal comes."""
        self._signalled.wait(_LOOK_EVERY_S)
