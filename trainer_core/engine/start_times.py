"""How long each part of a run's start takes, up to its first step."""

import os
import time

from trainer_core.process.stat import age_s


class StartTimes:
    """Seconds of each part, one after the other. Nothing is left out, so their sum is the total."""

    def __init__(self) -> None:
        """``process_s`` is the time since the process started: imports, and what it did before."""
        self._seconds = {"process_s": age_s(os.getpid())}
        self._since_s = time.monotonic()

    def end(self, part: str) -> None:
        """The part ends now. It began where the one before ended."""
        now_s = time.monotonic()
        self._seconds[part] = now_s - self._since_s
        self._since_s = now_s

    def as_json(self) -> dict[str, float]:
        """Part → seconds, and their sum so far as ``total_s``."""
        seconds = {**self._seconds, "total_s": sum(self._seconds.values())}
        return {part: round(each, 3) for part, each in seconds.items()}
