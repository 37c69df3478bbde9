"""Sweeps: many runs that differ in the values of a few options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

MAX_ROWS: Final = 200
"""Runs of one batch."""
MAX_OPTIONS: Final = 20
"""Options of one sweep."""
Method = Literal["grid", "zip", "random"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers to draw from; whole numbers where both ends are. Both ends may be drawn."""

    low: int | float
    high: int | float
    scale: Scale = "linear"
    """``log``: each power of ten is equally likely."""

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Values: TypeAlias = Sequence[Any] | Range
"""JSON values in order, or numbers to draw from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Which options take which values, and how these are combined."""

    method: Method
    options: Mapping[str, Values]
    """Name as it was sent → its values."""
    num_runs: int | None = None
    """Rows of the method random; the others have no use for it."""
    seed: int | None = None
    """Of the method random; None: 0."""
