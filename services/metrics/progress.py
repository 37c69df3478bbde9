"""Steps and stages of one attempt, from the events of its training process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from services.metrics.work import stage_seconds, steps


class AttemptProgress:
    """Counts each step once, and the time of each stage when the next one begins."""

    def __init__(self, from_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``from_step``: of the run's newest checkpoint; repeated steps are not counted again."""
        self._step = from_step
        self._stage: str | None = None
        self._clock = clock
        self._since_s = clock()

    def note(self, event: str, step: int, data: Mapping[str, Any]) -> None:
        """Take one event of the training process; ``step`` is the optimizer step it reached."""
        if step > self._step:
            steps.inc(step - self._step)
            self._step = step
        if event == "stage":
            self.enter(str(data.get("stage")))

    def enter(self, stage: str | None) -> None:
        """Record the end of the stage before; None where the attempt is over."""
        if stage == self._stage:
            return
        now_s = self._clock()
        if self._stage is not None:
            stage_seconds.labels(stage=self._stage).observe(now_s - self._since_s)
        self._stage, self._since_s = stage, now_s
