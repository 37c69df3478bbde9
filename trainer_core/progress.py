"""The interface through which long work reports progress and checks for a stop."""

from typing import Protocol


class Reporter(Protocol):
    """The caller of long work implements it."""

    def log(self, text: str) -> None:
        """Show one line."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units of a stage are done; called often."""

    def check_control(self) -> None:
        """Raise StopRequestedError if a stop was requested; called often."""


class SilentReporter:
    """Shows nothing and never stops the work."""

    def log(self, text: str) -> None:
        pass

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def check_control(self) -> None:
        pass
