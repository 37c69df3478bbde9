"""What a run shows while it trains and after, as JSON."""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a run; ids count from 1 without gaps."""

    id: int
    object: Literal["event"] = "event"
    type: str
    step: int
    data: dict[str, Any]
    created_at: str

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> Self:
        return cls(
            id=int(body["id"]),
            type=str(body["type"]),
            step=int(body["step"]),
            data=dict(body["data"]),
            created_at=str(body["created_at"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPiece:
    """Some lines that a training process printed; bytes count over all attempts of the run."""

    object: Literal["log_piece"] = "log_piece"
    attempt: int
    start_byte: int
    end_byte: int
    """``after`` of a call for what follows."""
    text: str
    created_at: str

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> Self:
        return cls(
            attempt=int(body["attempt"]),
            start_byte=int(body["start_byte"]),
            end_byte=int(body["end_byte"]),
            text=str(body["text"]),
            created_at=str(body["created_at"]),
        )


class MetricSeries(TypedDict):
    """One metric in bins of equally many steps; each list has one item a bin."""

    name: str
    first_step: list[int]
    last_step: list[int]
    count: list[int]
    """Steps that have a finite value; where there is none, the next three are None."""
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


class EvaluationLoss(TypedDict):
    """One measurement of the evaluation loss, with its 95 % confidence interval."""

    step: int
    mean: float | None
    low: float | None
    high: float | None


class ClipScores(TypedDict):
    """CLIP scores of the pictures of a step that show the same weights."""

    step: int
    weights: Literal["trained", "ema", "base"]
    mean: float | None
    min: float | None
    max: float | None
    similarity_mean: float | None


class Metrics(TypedDict):
    """Numbers that training reports with its steps."""

    object: Literal["metrics"]
    run_id: str
    names: list[str]
    """What the run reports with its newest steps."""
    every_nth_event: int
    series: list[MetricSeries]
    evaluations: list[EvaluationLoss]
    """The newest 1,000 in order of steps."""
    clip_scores: list[ClipScores]
    """The same, for each kind of weights."""


class Preview(TypedDict):
    """What the picture that is being sampled is going to be; its URL needs no key."""

    object: Literal["preview"]
    run_id: str
    step: int
    picture: str
    """The path that the picture will have among the run's samples."""
    name: str
    """Of the prompt."""
    weights: Literal["trained", "ema", "base"]
    seed: int
    width_px: int
    height_px: int
    sampler_step: int
    sampler_steps: int
    created_at: str
    url: str


class Sample(TypedDict):
    """A picture that the run made; its URL works for an hour and needs no key."""

    object: Literal["sample"]
    run_id: str
    step: int
    path: str
    prompt: str | None
    name: str | None
    """Of the prompt. None, as what follows, for a picture in the result."""
    weights: Literal["trained", "ema", "base"] | None
    width_px: int | None
    height_px: int | None
    seed: int | None
    sampler_steps: int | None
    guidance: float | None
    clip_score: float | None
    similarity: float | None
    created_at: str | None
    size_bytes: int
    sha256: str
    url: str


class File(TypedDict):
    """A file to download; its URL works for an hour and needs no key."""

    object: Literal["file"]
    path: str
    size_bytes: int
    sha256: str
    url: str


class Checkpoint(TypedDict):
    """A stored state from which training can resume."""

    object: Literal["checkpoint"]
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
    created_at: str


class Result(TypedDict):
    """The files that a run produced."""

    object: Literal["result"]
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
