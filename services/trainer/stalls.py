"""Tells a training process that hangs from one that works or waits."""

import time
from collections.abc import Callable

from services.domain.failures import infra_failure
from trainer_core.process.events import Event
from trainer_core.process.failure import Failure


class StallWatch:
    """Judges a training process by its events."""

    def __init__(
        self,
        *,
        stall_s: float,
        start_stall_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            stall_s: the longest time without an event, and, while it trains, without a step.
            start_stall_s: the same before its first step: it loads weights and compiles.
        """
        self._stall_s = stall_s
        self._start_stall_s = start_stall_s
        self._clock = clock
        self._step = 0
        self._has_stepped = False
        self._is_training = False
        self._event_at_s = self._progress_at_s = clock()

    @property
    def silent_s(self) -> float:
        """Time since the last event."""
        return self._clock() - self._event_at_s

    def note(self, event: Event) -> None:
        """Take the next event of the process."""
        self._event_at_s = self._clock()
        if event.name == "stage":
            was_training, self._is_training = (
                self._is_training,
                event.data.get("stage") == "training",
            )
            if self._is_training and not was_training:
                self._progress_at_s = self._event_at_s
        if event.step > self._step:
            # Other events name the step of the checkpoint from which it resumed.
            self._has_stepped = self._has_stepped or event.name == "step"
            self._step, self._progress_at_s = event.step, self._event_at_s

    def excuse(self) -> None:
        """The process waits for its supervisor now, so the time does not count."""
        self._event_at_s = self._progress_at_s = self._clock()

    def problem(self) -> Failure | None:
        """Why the process counts as hung; None where it does not."""
        limit_s = self._stall_s if self._has_stepped else max(self._start_stall_s, self._stall_s)
        if self.silent_s > limit_s:
            message = f"The training process reported nothing for {limit_s:g} s."
            return infra_failure("stalled", message)
        if self._is_training and self._clock() - self._progress_at_s > limit_s:
            message = f"The training process took no step for {limit_s:g} s."
            return infra_failure("no_progress", message)
        return None
