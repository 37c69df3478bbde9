"""Limits of a run as tenants give them: checked, and in the units that rows have."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.domain.errors import Problem
from services.store import gpu_classes, run_limits
from services.store.database import Connection

HOUR_S: Final = 3600
_FARTHEST: Final = timedelta(days=3650)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownLimits:
    """What decides whether a limit can hold."""

    priced: Set[str]
    """GPU classes with a price, which may be 0."""
    now: datetime
    """By the database's clock."""


def find_known_limits(conn: Connection) -> KnownLimits:
    return KnownLimits(priced=gpu_classes.currencies(conn).keys(), now=run_limits.now(conn))


def gpu_seconds(max_gpu_hours: float | None) -> float | None:
    return None if max_gpu_hours is None else max_gpu_hours * HOUR_S


def about_limits(
    known: KnownLimits, gpu_class: str, *, max_cost_micros: int | None, deadline: datetime | None
) -> Iterator[Problem]:
    """Problems where nothing is charged for, or where the deadline is past or years away."""
    if max_cost_micros is not None and gpu_class not in known.priced:
        message = (
            f"The operator has set no price for the GPU class {gpu_class}, so the run will cost "
            "nothing: use max_gpu_hours."
        )
        yield Problem(pointer="/max_cost_micros", code="refused", message=message)
    if deadline is None:
        return
    if deadline <= known.now:
        message = "The deadline has passed already: name a later moment, with its time zone."
        yield Problem(pointer="/deadline", code="bad_value", message=message)
    elif deadline - known.now > _FARTHEST:
        message = "The deadline is more than ten years away: name an earlier moment, or none."
        yield Problem(pointer="/deadline", code="bad_value", message=message)
