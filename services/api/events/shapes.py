"""A run's events as JSON."""

from datetime import datetime
from typing import Any, Final, Literal

from services.api.shapes import Shape
from services.domain.states import OVER

TERMINAL_EVENTS: Final = frozenset(f"run.{status.value}" for status in OVER)


class Event(Shape):
    """Something that happened to a run; ids count from 1 without gaps."""

    id: int
    object: Literal["event"] = "event"
    type: str
    step: int
    data: dict[str, Any]
    created_at: datetime
