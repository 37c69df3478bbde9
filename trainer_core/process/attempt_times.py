"""What the parts of a training process took, from its events. Pure."""

from trainer_core.process.events import OUTCOMES, Event


class AttemptTimes:
    """Adds up the times of one training process. Give it every event, in order."""

    def __init__(self) -> None:
        self._stage = ""
        self._t_s = 0.0
        """Time of the newest event."""
        self._step = 0
        self._start_s: float | None = None
        """When the first step was done; None before."""
        self._steps = 0
        """After the first one."""
        self._steps_s = 0.0
        self._since_step_s = 0.0
        """Of training since the newest step: part of the next step, or of the end."""
        self._checkpoints = 0
        self._checkpointing_s = 0.0
        self._paused_s = 0.0
        self._evaluating_s = 0.0
        """After the first step."""
        self._sampling_s = 0.0
        """Of the newest stage of this name: of pictures, unless it is the sample of the result."""
        self._pictures_s = 0.0
        """Of the pictures that were made while it trains."""

    def note(self, event: Event) -> None:
        """Take one event."""
        self._pass(event)
        if event.name == "stage":
            self._stage = str(event.data.get("stage"))
            if self._stage == "training":  # the sample of the result is followed by none
                self._pictures_s += self._sampling_s
                self._sampling_s = 0.0
            if self._start_s is None and "timings" in event.data:
                self._start_s = event.t_s - self._pictures_s
                self._since_step_s = 0.0
        elif event.name == "checkpoint":
            self._checkpoints += 1
        elif event.name in OUTCOMES:
            self._stage = ""

    def _pass(self, event: Event) -> None:
        passed_s, self._t_s = event.t_s - self._t_s, event.t_s
        if self._stage == "sampling":
            self._sampling_s += passed_s
        if self._start_s is None:
            self._step = event.step
            return
        match self._stage:
            case "training":
                self._since_step_s += passed_s
            case "checkpointing":
                self._checkpointing_s += passed_s
            case "paused":
                self._paused_s += passed_s
            case "evaluating":
                self._evaluating_s += passed_s
        if event.step > self._step:
            self._steps += event.step - self._step
            self._steps_s += self._since_step_s
            self._since_step_s, self._step = 0.0, event.step

    def as_json(self) -> dict[str, float | int | None]:
        """Seconds of each part so far; None for a part that did not happen.

        ``start_s`` ends with the first step. ``step_s`` is the mean of the steps after it,
        ``checkpoint_s`` of the checkpoints. ``end_s`` is what followed the last step, without
        checkpoints. Pauses and evaluations after the first step are part of ``process_s`` only, and
        so are pictures, whose time ``pictures_s`` is in no other part.
        """
        start_s = self._start_s
        used_s = (
            (start_s or 0.0)
            + self._steps_s
            + self._checkpointing_s
            + self._paused_s
            + self._evaluating_s
            + self._pictures_s
        )
        return {
            "steps": self._steps,
            "start_s": start_s,
            "step_s": self._steps_s / self._steps if self._steps else None,
            "checkpoint_s": self._checkpointing_s / self._checkpoints
            if self._checkpoints
            else None,
            "end_s": None if start_s is None else self._t_s - used_s,
            "process_s": self._t_s,
            "pictures_s": self._pictures_s,
        }
