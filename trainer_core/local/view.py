"""Where a local run is shown."""

from typing import Protocol

from trainer_core.process.events import Event


class View(Protocol):
    """Where a run is shown."""

    def log(self, text: str) -> None:
        """One line worth knowing."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` units of the preparation's ``stage`` are done; called often."""

    def event(self, event: Event) -> None:
        """One line of the event file, as it is written."""
