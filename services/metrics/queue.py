"""What waits and what failed, from the database: runs, workers and due rows.

A collector and not gauges, because a series must vanish when its rows do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRuns:
    """Runs that are not over, of one GPU class and one class of tenants."""

    gpu_class: str
    tenant_class: str
    status: str
    stage: str
    runs: int
    oldest_s: float
    """Since when the one that has waited longest is queued."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    kind: str
    gpu_class: str
    state: str
    """``free``, ``busy``, ``draining`` or ``silent`` (no heartbeat)."""
    reason: str
    """Code of the reason why they drain; empty for all others."""
    workers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingRows:
    """Rows that wait for a worker."""

    kind: str
    """``dataset``, ``shard`` or ``publication``."""
    rows: int
    oldest_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRuns:
    """Runs that failed for good in the last hour."""

    category: str
    code: str
    runs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueFigures:
    """All figures, read at one time."""

    runs: Sequence[OpenRuns]
    workers: Sequence[Workers]
    pending: Sequence[PendingRows]
    failed: Sequence[FailedRuns]


class QueueCollector(Collector):
    """Shows the newest figures; nothing before the first ones, and nothing after ``set(None)``."""

    def __init__(self) -> None:
        self._figures: QueueFigures | None = None

    def set(self, figures: QueueFigures | None) -> None:
        """Replace the figures; None where they could not be read."""
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        figures = self._figures or QueueFigures(runs=(), workers=(), pending=(), failed=())
        yield from _runs(figures.runs)
        workers = GaugeMetricFamily(
            "reverie_workers",
            "Workers by state: free, busy, draining (with the code of the reason), silent.",
            labels=["kind", "gpu_class", "state", "reason"],
        )
        for row in figures.workers:
            workers.add_metric([row.kind, row.gpu_class, row.state, row.reason], row.workers)
        yield workers
        pending = GaugeMetricFamily(
            "reverie_pending_rows", "Rows that wait for a worker, by kind.", labels=["kind"]
        )
        oldest = GaugeMetricFamily(
            "reverie_oldest_pending_row_seconds",
            "Age of the row that has waited longest for a worker, by kind. Of a dataset and of an "
            "import: since a worker last got on with it.",
            labels=["kind"],
        )
        for each in figures.pending:
            pending.add_metric([each.kind], each.rows)
            oldest.add_metric([each.kind], each.oldest_s)
        yield from (pending, oldest)
        failed = GaugeMetricFamily(
            "reverie_failed_runs",
            "Runs that failed for good in the last hour, by category and code.",
            labels=["category", "code"],
        )
        for ended in figures.failed:
            failed.add_metric([ended.category, ended.code], ended.runs)
        yield failed


def _runs(rows: Sequence[OpenRuns]) -> Iterator[GaugeMetricFamily]:
    labels = ["gpu_class", "tenant_class", "status", "stage"]
    runs = GaugeMetricFamily("reverie_runs", "Runs that are not over.", labels=labels)
    oldest = GaugeMetricFamily(
        "reverie_oldest_queued_run_seconds",
        "For how long the run that has waited longest is queued.",
        labels=["gpu_class", "tenant_class", "stage"],
    )
    for row in rows:
        runs.add_metric([row.gpu_class, row.tenant_class, row.status, row.stage], row.runs)
        if row.status == "queued":
            oldest.add_metric([row.gpu_class, row.tenant_class, row.stage], row.oldest_s)
    yield from (runs, oldest)


queue_figures: Final = QueueCollector()
REGISTRY.register(queue_figures)
