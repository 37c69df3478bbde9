"""How long a run will take, from what attempts of like runs took. Pure.

Each measured attempt gives one forecast: its parts, scaled to the run's work and counts. p50 is the
median of the forecasts; p90 follows from their spread, and from how unlike the runs are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

P90: Final = 1.2816
"""Standard deviations from the median of a normal distribution to its 90th percentile."""
_MOST_USED: Final = 30
_ALIKE: Final = 0.1
"""Distance up to which a run counts as the same work: 10 % more or less."""
_USUAL_SIGMA: Final = 0.15
_USUAL_WEIGHT: Final = 3
"""The usual spread counts like this many measurements."""
_SIGMA_PER_DISTANCE: Final = 0.25
_OTHER_SETTINGS_SIGMA: Final = 0.5
_ENOUGH_TO_FIT: Final = 0.2
"""Smallest distance between measurements whose slope is believed."""
_OWN_STEPS: Final = 20
"""After so many own steps, the spread of a run's own pace is a half of the usual one, squared."""
_LEAST_SIGMA: Final = 0.03

Likeness = Literal["same", "scaled", "other_settings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredAttempt:
    """What one attempt took."""

    work: dict[str, Any]
    """``trainer_core.config.plan.work.Work`` as JSON."""
    num_steps: int
    """Steps after its first one."""
    step_s: float
    start_s: float
    """Of the process, to the end of its first step."""
    checkpoint_s: float | None
    """Each; None: it wrote none."""
    end_s: float | None
    """After the last step; None: it was stopped before."""
    total_s: float
    """From the claim to the end of the attempt."""
    process_s: float
    """From the start of the process to its last event."""
    charged_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is left to do of a run: all of it, or the rest of one that trains."""

    work: dict[str, Any]
    """``trainer_core.config.plan.work.Work`` as JSON."""
    steps: int
    checkpoints: int
    has_started: bool = False
    """Whether its first step is done, so that nothing of the start is left."""
    own_step_s: float | None = None
    """Its own pace so far, checkpoints included; None: not known yet."""
    own_steps: int = 0
    """Steps that this pace was measured over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Half of all runs take up to ``p50``, nine of ten up to ``p90``."""

    p50: float
    p90: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What an estimate rests on."""

    num_attempts: int
    likeness: Likeness | None
    """``same``: runs of the same settings and work; ``scaled``: of the same settings;
    ``other_settings``; None: on the run's own steps alone."""
    own_steps: int
    """Steps of the run itself that were measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds from a worker's claim to the result, without waiting and without encoding."""

    seconds: Spread
    charged_s: Spread
    basis: Basis


def whole_run(work: dict[str, Any], max_steps: int) -> Task:
    """All of a run, from its first step."""
    interval = int(work["checkpoint_interval"])
    checkpoints = math.ceil(max_steps / interval)  # the last step always has one
    return Task(work=work, steps=max_steps, checkpoints=checkpoints)


def rest_of_run(
    work: dict[str, Any],
    max_steps: int,
    *,
    step: int,
    own_step_s: float | None = None,
    own_steps: int = 0,
) -> Task:
    """What is left of a run after ``step``.

    Args:
        work: of the run.
        max_steps: of the run.
        step: that is done.
        own_step_s: seconds a step while it trains; None: it does not train now.
        own_steps: over how many steps that was measured.
    """
    whole, done = whole_run(work, max_steps), step // int(work["checkpoint_interval"])
    return Task(
        work=work,
        steps=max(0, max_steps - step),
        checkpoints=max(0, whole.checkpoints - done),
        has_started=own_step_s is not None,
        own_step_s=own_step_s,
        own_steps=own_steps,
    )


def estimate(task: Task, measured: Sequence[MeasuredAttempt]) -> Estimate | None:
    """The estimate for a run; None where nothing like it was measured, nor its own pace.

    Args:
        task: the run.
        measured: attempts on its GPU class with its base model, newest first.
    """
    whole = [each for each in measured if each.end_s is not None]
    used = _nearest(task, whole)
    if not used.attempts:
        return _by_own_pace(task)
    forecasts = _forecasts(task, used.attempts)
    wider = _forecasts(task, used.wider)
    sigma = _sigma([math.log(each.seconds) for each in wider])
    distance = used.distance
    if used.likeness == "other_settings":
        distance += _OTHER_SETTINGS_SIGMA / _SIGMA_PER_DISTANCE
    if used.likeness != "same":
        sigma = math.hypot(sigma, _SIGMA_PER_DISTANCE * distance)
    if task.own_step_s is not None:
        sigma = max(_LEAST_SIGMA, sigma / math.sqrt(1 + task.own_steps / _OWN_STEPS))
    return Estimate(
        seconds=_spread(median(each.seconds for each in forecasts), sigma),
        charged_s=_spread(median(each.charged_s for each in forecasts), sigma),
        basis=Basis(
            num_attempts=len(used.attempts), likeness=used.likeness, own_steps=task.own_steps
        ),
    )


def _by_own_pace(task: Task) -> Estimate | None:
    if task.own_step_s is None:
        return None
    left = _spread(task.steps * task.own_step_s, _USUAL_SIGMA)
    basis = Basis(num_attempts=0, likeness=None, own_steps=task.own_steps)
    return Estimate(seconds=left, charged_s=left, basis=basis)


def _spread(p50: float, sigma: float) -> Spread:
    return Spread(p50=p50, p90=p50 * math.exp(P90 * sigma))


def _sigma(logarithms: Sequence[float]) -> float:
    """Standard deviation of a new run's logarithm, from those of some.

    The median and the 90th percentile are used, so that one odd run changes little.
    """
    number = len(logarithms)
    middle = median(logarithms)
    distances = [abs(each - middle) for each in logarithms]
    spread = 1.4826 * median(distances)
    if number >= 5:
        above = sorted(logarithms)[math.ceil(0.9 * number) - 1] - middle
        spread = max(spread, above / P90)
    variance = number * spread**2 + _USUAL_WEIGHT * _USUAL_SIGMA**2
    return math.sqrt(variance / (number + _USUAL_WEIGHT) * (1 + 1 / number))


@dataclass(frozen=True, slots=True)
class _Used:
    attempts: list[MeasuredAttempt]
    wider: list[MeasuredAttempt]
    """These and others of equal settings: few attempts tell their middle, not their spread."""
    likeness: Likeness
    distance: float
    """Of the nearest one."""


def _nearest(task: Task, measured: Sequence[MeasuredAttempt]) -> _Used:
    """The attempts that are most like the run, of those with equal settings where there are any."""
    equal = [each for each in measured if each.work["traits"] == task.work["traits"]]
    by_distance = sorted(equal or measured, key=lambda each: _distance(task, each))
    same = [each for each in by_distance if _distance(task, each) <= _ALIKE]
    if not equal:
        likeness: Likeness = "other_settings"
    else:
        likeness = "same" if same else "scaled"
    used = same if likeness == "same" else by_distance
    nearest = _distance(task, by_distance[0]) if by_distance else 0.0
    return _Used(used[:_MOST_USED], by_distance[:_MOST_USED], likeness, nearest)


def _distance(task: Task, attempt: MeasuredAttempt) -> float:
    """By how much the work differs, as a logarithm: 0.1 is 10 %."""
    return sum(abs(math.log(_ratio(task, attempt, part))) for part in (_of_step, _of_end))


Part = Callable[[dict[str, Any]], float]


def _of_step(work: dict[str, Any]) -> float:
    return float(work["step_flops"])


def _of_start(work: dict[str, Any]) -> float:
    return float(work["pass_flops"])


def _of_end(work: dict[str, Any]) -> float:
    """The fixed validation loss, of 64 pictures, and the sample picture."""
    return 64 * float(work["pass_flops"]) + float(work["sample_flops"])


def _watching_s(work: dict[str, Any], *, steps: int, has_started: bool, end_s: float) -> float:
    """Of pictures and evaluations while it trains, by ``end_s``, the time of ``_of_end``."""

    def of(name: str) -> float:
        return float(work.get(name, 0.0))  # older ones have no such key

    flops = steps * (of("pictures_flops_a_step") + of("evaluations_flops_a_step"))
    flops += of("evaluation_flops")  # after the last step
    if not has_started:
        flops += of("first_pictures_flops") + of("evaluation_flops")
    return end_s * flops / _of_end(work)


def _ratio(task: Task, attempt: MeasuredAttempt, part: Part) -> float:
    return part(task.work) / part(attempt.work)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Forecast:
    """What the run would take by one attempt."""

    seconds: float
    charged_s: float


def _forecasts(task: Task, attempts: Sequence[MeasuredAttempt]) -> list[_Forecast]:
    steps = _scaled(task, attempts, _of_step, lambda each: each.step_s)
    starts = _scaled(task, attempts, _of_start, lambda each: each.start_s)
    ends = _scaled(task, attempts, _of_end, lambda each: each.end_s or 0.0)
    checkpoints = [each.checkpoint_s for each in attempts if each.checkpoint_s is not None]
    usual_s = median(checkpoints) if checkpoints else 0.0
    return [
        _forecast(task, attempt, step_s=step_s, start_s=start_s, end_s=end_s, usual_s=usual_s)
        for attempt, step_s, start_s, end_s in zip(attempts, steps, starts, ends, strict=True)
    ]


def _forecast(
    task: Task,
    attempt: MeasuredAttempt,
    *,
    step_s: float,
    start_s: float,
    end_s: float,
    usual_s: float,
) -> _Forecast:
    """``usual_s``: of a checkpoint, where the attempt wrote none."""
    outside_s = max(0.0, attempt.total_s - attempt.process_s)
    before_s = 0.0 if task.has_started else outside_s + start_s
    if task.own_step_s is None:
        training_s = task.steps * step_s
        checkpoint_s = usual_s if attempt.checkpoint_s is None else attempt.checkpoint_s
        saving_s = task.checkpoints * checkpoint_s
    else:
        training_s, saving_s = task.steps * task.own_step_s, 0.0
    watching_s = _watching_s(task.work, steps=task.steps, has_started=task.has_started, end_s=end_s)
    its_watching_s = _watching_s(
        attempt.work, steps=attempt.num_steps, has_started=False, end_s=attempt.end_s or 0.0
    )
    its_steps_s = attempt.num_steps * attempt.step_s
    beside_steps_s = max(0.0, attempt.charged_s - its_steps_s - its_watching_s)
    return _Forecast(
        seconds=max(1e-3, before_s + training_s + saving_s + watching_s + end_s),
        charged_s=training_s + watching_s + beside_steps_s,
    )


def _scaled(
    task: Task,
    attempts: Sequence[MeasuredAttempt],
    part: Part,
    seconds: Callable[[MeasuredAttempt], float],
) -> list[float]:
    """Seconds of each attempt, scaled to the run's work by the slope that they show."""
    works = [math.log(part(each.work)) for each in attempts]
    times = [math.log(max(1e-6, seconds(each))) for each in attempts]
    slope = _slope(works, times)
    here = math.log(part(task.work))
    return [math.exp(time + slope * (here - work)) for work, time in zip(works, times, strict=True)]


def _slope(works: Sequence[float], times: Sequence[float]) -> float:
    """How time grows with work, both as logarithms: Theil's and Sen's median of slopes.

    Between 0, as where overheads dominate, and 1.2; 1 where all attempts did the same work.
    """
    slopes = [
        (times[j] - times[i]) / (works[j] - works[i])
        for i in range(len(works))
        for j in range(i)
        if abs(works[j] - works[i]) >= _ENOUGH_TO_FIT
    ]
    return min(1.2, max(0.0, median(slopes))) if slopes else 1.0
