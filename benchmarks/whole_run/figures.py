"""What the events of a run say about its speed, its memory and its start."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.step.measure import GIB
from trainer_core.process.events import Event

_WARM_UP: Final = 5
"""Steps that do not count: the first one captures."""
_SETTLED_EPOCH: Final = 2
"""From this epoch on, counted from 0, every bucket has its graph, also after graphs were freed."""


@dataclass(frozen=True, slots=True)
class _Interval:
    """From one reported step to the next reported one."""

    steps: int
    seconds: float
    is_interrupted: bool


def pace(events: Sequence[Event]) -> dict[str, Any]:
    """Seconds a step, between the ends of steps on the device.

    ``step_s`` is the mean without the intervals in which a checkpoint was written, or the run was
    evaluated or made pictures, and ``with_checkpoint_s`` that of all. ``checkpoint_pause_s`` has
    the pauses of all three kinds. A checkpoint after the last step is in none of them.
    """
    intervals = list(_intervals(events))
    plain = [each for each in intervals if not each.is_interrupted]
    interrupted = [each for each in intervals if each.is_interrupted]
    step_s = _mean_s(plain)
    pauses_s = [each.seconds - each.steps * step_s for each in interrupted]
    per_step_s = [each.seconds / each.steps for each in plain]
    return {
        "steps": sum(each.steps for each in intervals),
        "step_s": round(step_s, 4),
        "with_checkpoint_s": round(_mean_s(intervals), 4),
        "median_s": round(statistics.median(per_step_s), 4),
        "min_s": round(min(per_step_s), 4),
        "max_s": round(max(per_step_s), 4),
        "checkpoint_pause_s": [round(pause_s, 3) for pause_s in pauses_s],
    }


def start(events: Sequence[Event]) -> dict[str, Any]:
    """Which weights were read, how a step is launched, and how long the start took."""
    plan = next(event for event in events if event.name == "plan")
    timings = next(
        event.data["timings"]
        for event in events
        if event.name == "stage" and "timings" in event.data
    )
    return {
        "weights": plan.data["weights"],
        "preparation": plan.data["preparation"],
        "start": timings,
    }


def peak(events: Sequence[Event]) -> dict[str, Any]:
    """The most memory of the card that torch reserved; None on a CPU."""
    found = [e.data.get("peak_reserved_bytes") for e in events if e.name == "step"]
    return {"peak_reserved_gib": None if found[-1] is None else round(found[-1] / GIB, 2)}


def growth(events: Sequence[Event]) -> dict[str, Any]:
    """How much more memory the second half of the settled steps used than the first half.

    Each half's figure is its largest; at any moment up to three batches are on the device.
    """
    settled = [e for e in events if e.name == "step" and e.data["epoch"] >= _SETTLED_EPOCH]
    found: dict[str, Any] = {"settled_reports": len(settled)}
    half = len(settled) // 2
    for name in ("allocated_bytes", "reserved_bytes"):
        values = [event.data[name] for event in settled if name in event.data]
        if values:
            before, after = max(values[:half]), max(values[half:])
            found |= {name: [before, after], f"{name}_grown": after - before}
    return found


def observations(
    events: Sequence[Event], *, first_evaluation: int, first_picture: int
) -> dict[str, Any]:
    """Seconds of pictures and of evaluations, and the memory reserved before and after the first.

    ``first_evaluation``, ``first_picture``: the steps after which they are made; the evaluation
    before the first step does not count as one.
    """
    made = [event for event in events if event.name == "sample" and "took_s" in event.data]
    measured = [e for e in events if e.name == "eval" and e.data["name"] == "evaluation"]
    return {
        "picture_s": [event.data["took_s"] for event in made],
        "evaluation_s": [event.data["took_s"] for event in measured],
        "evaluated_images": measured[0].data["images"],
        "training_peak_gib": _peak_gib(events, first_evaluation),
        "with_evaluation_peak_gib": _peak_gib(events, first_picture),
        "with_pictures_peak_gib": peak(events)["peak_reserved_gib"],
        "warnings": [e.data["message"] for e in events if e.name == "warning"],
    }


def _peak_gib(events: Sequence[Event], last_step: int) -> float | None:
    """The most memory that was reserved when ``last_step`` was reported."""
    return peak([e for e in events if e.step <= last_step])["peak_reserved_gib"]


def _intervals(events: Sequence[Event]) -> Iterator[_Interval]:
    between = {event.step for event in events if event.name in ("checkpoint", "eval", "sample")}
    steps = [event for event in events if event.name == "step" and event.step >= _WARM_UP]
    for one, next_one in itertools.pairwise(steps):
        yield _Interval(
            steps=next_one.step - one.step,
            seconds=next_one.t_s - one.t_s,
            is_interrupted=any(one.step <= step < next_one.step for step in between),
        )


def _mean_s(intervals: Sequence[_Interval]) -> float:
    return sum(each.seconds for each in intervals) / sum(each.steps for each in intervals)
