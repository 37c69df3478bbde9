"""The state of a watched run, computed from its events alone; no clock and no terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from services.domain.states import OVER, RunStatus

if TYPE_CHECKING:
    from services.client.run_output_shapes import Event
    from services.client.shapes import Run

_SMOOTHING: Final = 0.95
"""Weight of the past in the smoothed loss: about the last twenty steps."""
_WARNINGS_KEPT: Final = 100
STATUS_EVENTS: Final = frozenset(f"run.{status}" for status in RunStatus)
"""Events that are named after the status that the run has from then on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedLoss:
    """The fixed validation loss: mean over the same images, noise and timesteps each time."""

    step: int
    mean: float
    held_out_mean: float | None


@dataclass(slots=True)
class WatchState:
    """A run as its events describe it."""

    run_id: str
    max_steps: int
    """0 until the epochs of the run are counted."""
    status: str = "queued"
    stage: str | None = None
    reason: str | None = None
    step: int = 0
    attempt: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    """The reported (step, loss) pairs in order of steps."""
    steps_per_s: float | None = None
    eta_s: float | None = None
    checkpoint_step: int | None = None
    fixed_losses: list[FixedLoss] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """The evaluation losses (step, mean) in order of steps."""
    clip_scores: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """The weights that pictures show → the means of their CLIP scores (step, mean)."""
    similarities: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Likewise of their similarities to the training pictures."""
    picture: str | None = None
    """The path of the newest one, among the artifacts of the run."""
    preview: str | None = None
    """Path of the picture that is being sampled, where there are previews of it."""
    warnings: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def apply(self, event: "Event") -> None:
        """Apply one event; an unknown type changes nothing."""
        data = event.data
        match event.type:
            case "run.started":
                self._start_attempt(data)
            case "run.checkpoint":
                self.checkpoint_step = event.step
            case "run.resumed":
                self._set_status(data.get("status") or self.status, data)
            case str(type_) if type_ in STATUS_EVENTS:
                self._set_status(type_.removeprefix("run."), data)
            case "plan":
                self.max_steps = data.get("steps") or self.max_steps
                for warning in data.get("warnings") or ():
                    self.warn(_text(warning))
            case "stage":
                self.stage = data.get("stage") or self.stage
                self.preview = None
            case "preview" if isinstance(data.get("picture"), str):
                self.preview = data["picture"]
            case "step":
                self._take_step(event.step, data)
            case "eval":
                self._take_measured(event.step, data)
            case "sample" if isinstance(data.get("path"), str):
                self.picture = data["path"]
            case "warning":
                self.warn(_text(data))

    def settle(self, run: "Run") -> None:
        """Take status, steps and warnings from the run itself, when its events have ended."""
        self._set_status(run["status"], {"stage": run["stage"], "reason": run["status_reason"]})
        self.step, self.max_steps = run["step"], run["max_steps"]
        self.checkpoint_step = run["checkpoint_step"] or None
        for warning in run["warnings"]:
            self.warn(_text(warning))

    def warn(self, text: str) -> None:
        """Keep a warning; each text once."""
        if text and text not in self.warnings and len(self.warnings) < _WARNINGS_KEPT:
            self.warnings.append(text)

    def _set_status(self, status: str, data: Mapping[str, Any]) -> None:
        self.status = status
        self.preview = None
        self.stage = data.get("stage")
        reason = data.get("reason")
        self.reason = _text(reason) if reason else None
        if status != "running":
            self.steps_per_s = self.eta_s = None

    def _start_attempt(self, data: Mapping[str, Any]) -> None:
        """An attempt resumes from the newest checkpoint; steps after that one are done again."""
        self._set_status("running", data)
        self.attempt = int(data.get("attempt") or self.attempt + 1)
        self.step = self.checkpoint_step or 0
        self._forget_from(self.step + 1)

    def _take_step(self, step: int, data: Mapping[str, Any]) -> None:
        self._forget_from(step)
        self.step = step
        self.steps_per_s = _number(data.get("steps_per_s"))
        self.eta_s = _number(data.get("eta_s"))
        if (loss := _number(data.get("loss"))) is not None:
            self.losses.append((step, loss))

    def _forget_from(self, step: int) -> None:
        while self.losses and self.losses[-1][0] >= step:
            self.losses.pop()

    def _take_measured(self, step: int, data: Mapping[str, Any]) -> None:
        match data.get("name"):
            case "probe":
                self._take_fixed_loss(step, data)
            case "evaluation":
                self._take_evaluation(step, data)
            case "clip":
                self._take_scores(step, data)

    def _take_fixed_loss(self, step: int, data: Mapping[str, Any]) -> None:
        mean = _number(data.get("mean"))
        if mean is None:
            return
        self.fixed_losses = [each for each in self.fixed_losses if each.step < step]
        held_out_mean = _number(data.get("held_out_mean"))
        self.fixed_losses.append(FixedLoss(step=step, mean=mean, held_out_mean=held_out_mean))

    def _take_evaluation(self, step: int, data: Mapping[str, Any]) -> None:
        self.evaluations = [each for each in self.evaluations if each[0] < step]
        if (mean := _number(data.get("mean"))) is not None:
            self.evaluations.append((step, mean))

    def _take_scores(self, step: int, data: Mapping[str, Any]) -> None:
        weights = data.get("weights")
        if isinstance(weights, str):
            _take_mean(self.clip_scores, weights, step, data.get("mean"))
            _take_mean(self.similarities, weights, step, data.get("similarity_mean"))


def _take_mean(
    means: dict[str, list[tuple[int, float]]], weights: str, step: int, value: object
) -> None:
    """Add the mean of a step, in place of those of the same and of later steps."""
    if (mean := _number(value)) is not None:
        earlier = [each for each in means.get(weights, ()) if each[0] < step]
        means[weights] = [*earlier, (step, mean)]


def smoothed(losses: Sequence[float]) -> float:
    """Exponential mean of at least one value, corrected for its start (as Adam does)."""
    mean = weight = 0.0
    for loss in losses:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
    return mean / weight


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _text(body: object) -> str:
    """The message of a warning or a reason, with its code where it has one."""
    if not isinstance(body, Mapping):
        return str(body)
    code = f" [{body['code']}]" if body.get("code") else ""
    return f"{body.get('message') or ''}{code}".strip()
