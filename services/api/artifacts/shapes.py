"""Pictures of a run as JSON; other files are ``runs.shapes.File``."""

from datetime import datetime
from typing import Literal

from services.api.shapes import Shape


class Preview(Shape):
    """What the picture that is being sampled is going to be; the URL works for an hour."""

    object: Literal["preview"] = "preview"
    run_id: str
    step: int
    """Optimizer steps that were done; 0: before the first one."""
    picture: str
    """The path that the picture will have among the run's samples."""
    name: str
    """Of the prompt."""
    weights: Literal["trained", "ema", "base"]
    seed: int
    width_px: int
    """Of the preview, as the height."""
    height_px: int
    sampler_step: int
    """After which step of the sampler it was made, of ``sampler_steps``."""
    sampler_steps: int
    created_at: datetime
    url: str
    """Leads to the newest preview of this attempt: a later one replaces the file."""


class Sample(Shape):
    """A picture that the run made; the URL works for an hour and needs no key."""

    object: Literal["sample"] = "sample"
    run_id: str
    step: int
    """Optimizer steps that were done; 0: before the first one."""
    path: str
    """Among the artifacts of the run."""
    prompt: str | None
    name: str | None = None
    """Of the prompt, as in the prompt library. Null, as what follows, for one in the result."""
    weights: Literal["trained", "ema", "base"] | None = None
    """It was made with the trained weights, their running mean, or the base model alone."""
    width_px: int | None = None
    height_px: int | None = None
    seed: int | None = None
    sampler_steps: int | None = None
    guidance: float | None = None
    clip_score: float | None = None
    """How well it fits its prompt, from -1 to 1; null: it was not scored."""
    similarity: float | None = None
    """To the nearest training picture; null: it was not measured."""
    created_at: datetime | None = None
    size_bytes: int
    sha256: str
    url: str
