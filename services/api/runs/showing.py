"""Runs as answers: each with its attempts, its estimate and why it waits."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.api.runs.estimating import estimate_of_run
from services.api.runs.presenting import run_shape
from services.api.runs.shapes import Run
from services.api.service import Service
from services.domain.placement import HEARTBEATS_MISSED
from services.domain.waiting import Waiting
from services.store import gpu_classes, metric_relays, run_documents, runs, waiting
from services.store.database import Connection
from services.store.run_rows import Run as RunRow

_MAX_ATTEMPTS: Final = 100


def shown_run(service: Service, conn: Connection, row: RunRow) -> Run:
    """One run with its attempts, its estimate and why it waits."""
    return run_shape(
        row,
        runs.attempts(conn, row.tenant_id, row.run_id, _MAX_ATTEMPTS),
        notices=run_documents.read_notices(conn, row.tenant_id, row.run_id),
        waiting=waits(service, conn, row.tenant_id, [row]).get(row.run_id),
        currency=gpu_classes.currencies(conn).get(row.gpu_class),
        estimate=estimate_of_run(conn, row),
        relay=metric_relays.find(conn, row.tenant_id, row.run_id),
    )


def waits(
    service: Service, conn: Connection, tenant_id: str, rows: Sequence[RunRow]
) -> dict[str, Waiting]:
    """Run id → why it waits, for those that wait."""
    settings = service.settings
    return waiting.of_runs(
        conn,
        tenant_id,
        rows,
        aging=timedelta(seconds=settings.aging_s),
        silence=timedelta(seconds=settings.heartbeat_s) * HEARTBEATS_MISSED,
    )
