"""Ctrl-C and SIGTERM while a run trains in this process."""

import signal
from collections.abc import Callable
from types import FrameType

from trainer_core.process.control import Control


class StopSignals:
    """The first signal asks for a stop with a checkpoint; a second Ctrl-C interrupts at once."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """``log`` prints a line that confirms the signal."""
        self._log = log

    def handle(self, control: Control) -> None:
        """Install the handlers that send requests to ``control``; main thread only."""

        def on_interrupt(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, lambda *_: control.interrupt())
            control.request_stop()
            self._log("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

        control.stop_on_sigterm()
        signal.signal(signal.SIGINT, on_interrupt)
