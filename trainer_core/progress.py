"""Who looks on while a run is prepared and trains: what is told, and when to stop."""

from typing import Protocol


class Watch(Protocol):
    """The one who started the work."""

    def say(self, text: str) -> None:
        """One line worth knowing."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` units of a stage are done; called often."""

    def heed(self) -> None:
        """Raise StopRequestedError where a stop is asked for; called often."""


class NoWatch:
    """Nobody looks on, and nobody stops the work."""

    def say(self, text: str) -> None:
        pass

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def heed(self) -> None:
        pass
