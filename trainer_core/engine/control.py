"""What the supervisor wants: one word in a file, or SIGTERM; looked at between steps."""

import signal
import threading
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


class BadControlError(TrainerError):
    """The control file says something unknown."""

    code = "bad_control"


class Control:
    """The supervisor's word, and SIGTERM."""

    def __init__(self, path: Path | None) -> None:
        """``path`` None: only signals are heeded."""
        self._path = path
        self._signalled = threading.Event()

    def heed_sigterm(self) -> None:
        """From now on SIGTERM asks to stop instead of ending the process; main thread only."""
        signal.signal(signal.SIGTERM, lambda *_: self.ask_to_stop())

    def ask_to_stop(self) -> None:
        """From now on the word is ``stop``, whatever the file says."""
        self._signalled.set()

    def word(self) -> Word:
        """Raises BadControlError for a word that is not one."""
        if self._signalled.is_set():
            return Word.STOP
        try:
            text = self._path.read_text(encoding="utf-8").strip() if self._path else ""
        except FileNotFoundError:
            text = ""
        try:
            return Word(text or Word.RUN)
        except ValueError as error:
            raise BadControlError(f"the control file says {text[:40]!r}") from error

    def check(self) -> None:
        """Raise StopRequestedError where a stop is asked for."""
        if self.word() is Word.STOP:
            raise StopRequestedError("a stop was asked for")

    def wait(self) -> None:
        """A moment before the next look; shorter where a signal comes."""
        self._signalled.wait(_LOOK_EVERY_S)
