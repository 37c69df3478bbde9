"""Why a run waits, and until when. Pure."""

from dataclasses import dataclass, replace
from typing import Any, Final

from services.domain.states import RunStatus, Stage

_CODES: Final = {"base_model_missing": "waiting_for_base_model"}
"""Codes of reasons for which a run is postponed → code of the waiting; others keep theirs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What a run that does not train yet waits for."""

    code: str
    message: str
    position: int | None = None
    """Among the tenant's own waiting runs of its GPU class; the run at 1 goes first."""
    eta_s: float | None = None
    """Seconds until it is expected to start; None where that cannot be told."""


NEW: Final = Waiting(code="waiting_for_admission", message="The run's data are being read.")
"""What a run waits for that was just created."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceInLine:
    """What the database knows of a waiting run and of the line that it is in."""

    run_id: str
    gpu_class: str
    position: int
    lacks_data: bool
    """Whether a dataset of the run is not verified yet."""
    is_postponed: bool
    """Whether it is tried again only after a pause."""
    has_workers: bool
    """Whether a worker of its GPU class takes runs now."""
    own_starts: int
    """Runs of this tenant that were started in the last hour on this GPU class."""
    class_starts: int
    """And of all tenants."""
    tenants: int
    """Tenants with runs that wait for a worker of this GPU class."""


def waiting_for(
    status: str, stage: str | None, reason: dict[str, Any] | None, place: PlaceInLine
) -> Waiting:
    """Why this run waits.

    Args:
        reason: the ``status_reason`` of the run, a failure as JSON.
    """
    position = place.position
    if status == RunStatus.RUNNING:
        message = "The run's images and captions are being encoded."
        return Waiting(code="waiting_for_cache", message=message, position=position)
    if reason is not None and (stage != Stage.CAPACITY or place.is_postponed):
        code = str(reason["code"])
        if stage == Stage.CAPACITY:
            code = "waiting_to_retry"
        return Waiting(
            code=_CODES.get(code, code), message=str(reason["message"]), position=position
        )
    if stage != Stage.CAPACITY:
        if place.lacks_data:
            message = "A dataset of the run is not verified yet."
            return Waiting(code="waiting_for_data", message=message, position=position)
        return replace(NEW, position=position)
    if not place.has_workers:
        message = f"No worker of the GPU class {place.gpu_class} is running at the moment."
        return Waiting(code="no_worker_of_this_class", message=message, position=position)
    return Waiting(
        code="waiting_for_a_worker",
        message=f"The run waits for its turn on a worker of the GPU class {place.gpu_class}.",
        position=position,
        eta_s=_eta_s(place),
    )


def _eta_s(place: PlaceInLine) -> float | None:
    """From the rate at which runs were started in the last hour."""
    if place.own_starts:
        return place.position * 3600 / place.own_starts
    if place.class_starts:  # tenants take turns
        return place.position * max(1, place.tenants) * 3600 / place.class_starts
    return None
