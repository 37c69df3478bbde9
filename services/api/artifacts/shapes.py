"""Pictures of a run as JSON; other files are ``runs.shapes.File``."""

from datetime import datetime
from typing import Literal

from services.api.shapes import Shape


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
    created_at: datetime | None = None
    size_bytes: int
    sha256: str
    url: str
