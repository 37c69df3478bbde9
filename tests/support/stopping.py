"""A reporter that asks long work to stop."""

from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter


class Stopping(SilentReporter):
    """Stops the work at the check of this number."""

    def __init__(self, at: int) -> None:
        self.left = at

    def check_control(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise StopRequestedError("stop")
