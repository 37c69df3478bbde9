"""Metrics of a run as JSON."""

from typing import Literal

from services.api.shapes import Shape


class MetricSeries(Shape):
    """One metric in bins of equally many steps; each list has one item a bin."""

    name: str
    first_step: list[int]
    last_step: list[int]
    count: list[int]
    """Steps that have a finite value; where there is none, the next three are null."""
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


class EvaluationLoss(Shape):
    """One measurement of the evaluation loss, with its 95 % confidence interval."""

    step: int
    mean: float | None
    """Null: a loss was not finite."""
    low: float | None
    """Null where one image is measured."""
    high: float | None


class ClipScores(Shape):
    """CLIP scores of the pictures of a step that show the same weights."""

    step: int
    weights: Literal["trained", "ema", "base"]
    mean: float | None
    """Null, as the next two: it was not finite."""
    min: float | None
    max: float | None
    similarity_mean: float | None
    """Of the pictures to the nearest training picture; null: it was not measured."""


class Metrics(Shape):
    """Numbers that training reports with its steps."""

    object: Literal["metrics"] = "metrics"
    run_id: str
    names: list[str]
    """What the run reports with its newest steps."""
    every_nth_event: int
    """1: all stored events count. Of a run with more than 50,000 every second one, and so on."""
    series: list[MetricSeries]
    """In the order of the request; empty where it names none."""
    evaluations: list[EvaluationLoss]
    """The newest 1,000 in order of steps; a step that was measured again counts once. Empty where
    the run measures none."""
    clip_scores: list[ClipScores]
    """The same of the CLIP scores of its pictures, for each kind of weights."""
