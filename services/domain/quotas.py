"""Quotas: how much of the service a tenant may use at once, in a month, or in a minute."""

from dataclasses import dataclass, fields
from typing import Final

from trainer_core.errors import Category
from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """One tenant's quotas; the defaults here are the service's, unless its operator sets others."""

    queued_runs: int = 10_000
    """Runs that are not over, those that train included."""
    concurrent_runs: int = 1_000
    """Runs that workers hold or that are offered to one."""
    gpu_hours: float = 10_000.0
    """Charged in one calendar month, UTC."""
    storage_bytes: int = 10**13
    """Files of datasets, checkpoints and results."""
    uploads: int = 1_000
    """Datasets that are still being uploaded."""
    requests_per_minute: int = 6_000
    """That create something; ``services.domain.request_rates`` says what follows for others."""


QUOTA_NAMES: Final = tuple(field.name for field in fields(Quotas))

ALLOWS: Final = {
    "queued_runs": "runs that are not over",
    "uploads": "datasets that are still being uploaded",
    "storage_bytes": "bytes of dataset files, checkpoints and results",
}
"""The quotas that refuse a request, and what each of them counts."""
WAY_OUT: Final = {
    "queued_runs": "Wait until a run is over, or cancel one",
    "uploads": "Upload what is missing of one and complete it",
    "storage_bytes": "Use a dataset that is stored already",
}
"""What the tenant can do without the operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Starts:
    """How many runs of a tenant may start now, beside those that train."""

    room: int
    reason: Failure | None
    """Why none may start; None where one may."""
    must_stop: bool = False
    """Whether those that train have to stop, too."""


def starts_of(*, concurrent_runs: int, gpu_hours: float, runs: int, used_hours: float) -> Starts:
    """What a tenant's quotas allow that has ``runs`` held or offered and has used ``used_hours``.

    Both quotas fail closed: what is used up exactly is used up.
    """
    if used_hours >= gpu_hours:
        reason = _waits(
            "quota_gpu_hours",
            f"The quota gpu_hours allows {gpu_hours:,g} hours a month, and they are used up. The "
            "run goes on in the next month (UTC), or when the operator of the service raises the "
            "quota.",
        )
        return Starts(room=0, reason=reason, must_stop=True)
    room = concurrent_runs - runs
    if room > 0:
        return Starts(room=room, reason=None)
    reason = _waits(
        "quota_concurrent_runs",
        f"The quota concurrent_runs allows {concurrent_runs:,} at once. The run starts when "
        "another one ends, or when the operator of the service raises the quota.",
    )
    return Starts(room=0, reason=reason)


def _waits(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.QUOTA, message=message, retryable=True)
