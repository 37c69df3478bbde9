"""Placement: on which free worker the next run goes. It never changes which run is next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

HEARTBEATS_MISSED: Final = 3
"""A worker that has missed so many gets no run."""
BUILDER_LEASE: Final = timedelta(seconds=30)
"""A row that its cache builder does not renew for this long is offered to others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeWorker:
    """A worker that holds no run and has no offer."""

    worker_id: str
    gpu_class: str
    node: str
    """Its machine; empty for a worker of an older version, which is not rung by name."""
    base_models: Sequence[str]
    """Base models that this machine has read lately."""
    is_remote: bool = False
    """It asks for offers over HTTPS and is never rung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRun:
    """The run that goes next, and what matters to where."""

    run_id: str
    base_model: str
    unanswered_by: str | None
    """The worker that let the run's last offer pass; None where there was none."""
    failed_on: str | None
    """The machine that failed or lost its last attempt; None where that was not the machine."""


def place(run: NextRun, workers: Sequence[FreeWorker]) -> FreeWorker:
    """The best worker for the run; of equally good ones the first.

    A worker that has just failed the run takes it only where no other is free. Of the others, one
    whose machine has its base model in memory or on disk starts sooner.
    """

    def drawbacks(worker: FreeWorker) -> tuple[bool, bool, bool]:
        return (
            worker.worker_id == run.unanswered_by,
            bool(worker.node) and worker.node == run.failed_on,
            run.base_model not in worker.base_models,
        )

    return min(workers, key=drawbacks)
