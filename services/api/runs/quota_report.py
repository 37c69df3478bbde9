"""The quotas that a new run would count for, and what each would do to it."""

from collections.abc import Mapping
from typing import Final, Literal

from services.api.runs.validation_shapes import RunQuota
from services.domain.errors import QuotaExceededError
from services.domain.quotas import starts_of
from services.store.quotas import QuotaState

_OF_A_RUN: Final = ("queued_runs", "storage_bytes", "concurrent_runs", "gpu_hours")


def quota_report(
    states: Mapping[str, QuotaState], refusal: QuotaExceededError | None
) -> list[RunQuota]:
    """One entry for each quota.

    Args:
        states: of the tenant's quotas, by name.
        refusal: what submitting the run would answer with now.
    """
    starts = starts_of(
        concurrent_runs=int(states["concurrent_runs"].limit),
        gpu_hours=states["gpu_hours"].limit,
        runs=int(states["concurrent_runs"].used or 0),
        used_hours=states["gpu_hours"].used or 0.0,
    )
    waits_for = None if starts.reason is None else starts.reason.code.removeprefix("quota_")

    def effect_of(name: str) -> Literal["none", "waits", "refused"]:
        if refusal is not None and name == refusal.quota:
            return "refused"
        return "waits" if name == waits_for else "none"

    return [
        RunQuota(
            quota=name,
            limit=states[name].limit,
            used=states[name].used or 0.0,
            effect=effect_of(name),
        )
        for name in _OF_A_RUN
    ]
