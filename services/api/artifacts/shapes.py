"""Pictures of a run as JSON; other files are ``runs.shapes.File``."""

from typing import Literal

from services.api.shapes import Shape


class Sample(Shape):
    """A picture that the run made; the URL works for an hour and needs no key."""

    object: Literal["sample"] = "sample"
    run_id: str
    step: int
    path: str
    """Among the artifacts of the run."""
    prompt: str | None
    size_bytes: int
    sha256: str
    url: str
