"""How fast a stage of preparation goes, and how long it will still take."""

from collections import deque
from typing import Final

from trainer_core.in_words import duration

_WINDOW_S: Final = 30.0
"""The pace is that of about so long: encoders that follow each other have different ones."""
_STEP_S: Final = 1.0


class Pace:
    """The pace of one stage after another."""

    def __init__(self) -> None:
        self._stage = ""
        self._seen: deque[tuple[float, int]] = deque()
        """Times, a second apart, and what was done by then."""

    def facts(self, stage: str, done: int, total: int, now_s: float) -> str:
        """``12.5/s, 3 min 20 s left``; empty in the first second of a stage, and at its end.

        Args:
            stage: its name; another one starts anew.
            done: units that are done.
            total: units of the stage.
            now_s: a time of a clock that never goes back.
        """
        if stage != self._stage or (self._seen and done < self._seen[-1][1]):
            self._stage = stage
            self._seen.clear()
        if not self._seen or now_s - self._seen[-1][0] >= _STEP_S:
            self._seen.append((now_s, done))
            while len(self._seen) > 1 and now_s - self._seen[1][0] >= _WINDOW_S:
                self._seen.popleft()
        since_s, before = self._seen[0]
        if now_s - since_s < _STEP_S or done == before or done >= total:
            return ""
        per_s = (done - before) / (now_s - since_s)
        return f"{per_s:,.{1 if per_s < 100 else 0}f}/s, {duration((total - done) / per_s)} left"
