"""Batches: several runs of one request. A batch's row never changes; its runs name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Json

from services.domain.errors import NotFoundError
from services.domain.ids import new_id
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One row of ``batches``."""

    batch_id: str
    tenant_id: str
    name: str
    sweep: dict[str, Any] | None
    """As sent; None where the request listed its runs."""
    num_rows: int
    """Accepted and refused."""
    refused: list[dict[str, Any]]
    """``{row, options, errors, num_errors}`` of each row that became no run."""
    created_at: datetime


_CREATE: Final = SQL("""
INSERT INTO batches (batch_id, tenant_id, name, sweep, num_rows, refused)
VALUES (%s, %s, %s, %s, %s, %s)
RETURNING {columns}
""").format(columns=columns_of(Batch))


def create(
    conn: Connection,
    tenant_id: str,
    *,
    name: str,
    sweep: dict[str, Any] | None,
    num_rows: int,
    refused: Sequence[dict[str, Any]],
) -> Batch:
    """A batch without runs; create these in the same transaction."""
    stored_sweep = None if sweep is None else Json(sweep)
    facts = (new_id("bat"), tenant_id, name, stored_sweep, num_rows, Json(list(refused)))
    with conn.cursor(row_factory=class_row(Batch)) as cursor:
        batch = cursor.execute(_CREATE, facts).fetchone()
    assert batch is not None
    return batch


_GET: Final = SQL("SELECT {columns} FROM batches WHERE tenant_id = %s AND batch_id = %s").format(
    columns=columns_of(Batch)
)


def get(conn: Connection, tenant_id: str, batch_id: str) -> Batch:
    """Raises NotFoundError."""
    with conn.cursor(row_factory=class_row(Batch)) as cursor:
        batch = cursor.execute(_GET, (tenant_id, batch_id)).fetchone()
    if batch is None:
        raise NotFoundError("batch", batch_id)
    return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSummary:
    """One row of ``batches`` without its documents."""

    batch_id: str
    name: str
    num_rows: int
    created_at: datetime


_LIST: Final = SQL("""
SELECT {columns} FROM batches
WHERE tenant_id = %(tenant_id)s AND (%(after)s::text IS NULL OR batch_id < %(after)s)
ORDER BY batch_id DESC LIMIT %(limit)s
""").format(columns=columns_of(BatchSummary))


def list_page(
    conn: Connection, tenant_id: str, limit: int, after: str | None = None
) -> list[BatchSummary]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after}
    with conn.cursor(row_factory=class_row(BatchSummary)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The runs of a batch that have one status, and one GPU class."""

    batch_id: str
    status: str
    gpu_class: str
    num_runs: int
    step: int
    """Of all of them."""
    max_steps: int
    charged_s: float
    cost_micros: int


_SHARES: Final = """
SELECT batch_id, status, gpu_class, count(*) AS num_runs, sum(step) AS step,
    sum(max_steps) AS max_steps, sum(charged_s) AS charged_s,
    sum(cost_micros)::bigint AS cost_micros
FROM runs WHERE tenant_id = %s AND batch_id = ANY(%s) AND deleted_at IS NULL
GROUP BY batch_id, status, gpu_class
"""


def shares(conn: Connection, tenant_id: str, batch_ids: Sequence[str]) -> list[Share]:
    """How far the runs of these batches are."""
    with conn.cursor(row_factory=class_row(Share)) as cursor:
        return cursor.execute(_SHARES, (tenant_id, list(batch_ids))).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRun:
    """One run of a batch, as far as runs are compared."""

    row: int
    run_id: str
    options: dict[str, Any]
    """What it has other than the batch's other runs."""
    status: str
    stage: str | None
    status_reason: dict[str, Any] | None
    step: int
    max_steps: int
    loss: float | None
    """The newest that it reported, at ``loss_step``; None where it did not lately."""
    loss_step: int | None
    best_loss: float | None
    """The lowest of a step, at ``best_loss_step``; None where it reported none."""
    best_loss_step: int | None
    evaluation: dict[str, Any] | None
    """``step``, ``mean`` and ``held_out_mean`` of its newest fixed validation loss; None where it
    reported none lately."""
    charged_s: float
    cost_micros: int
    gpu_class: str


# Steps are reported often, and an evaluation at the end, so the newest ones are near the end; older
# events are not searched.
_RUNS: Final = """
SELECT batch_row AS row, run_id, batch_options AS options, status, stage, status_reason,
    runs.step, max_steps, newest.loss, newest.step AS loss_step, best_loss,
    best_loss_step, evaluation, charged_s, cost_micros, gpu_class
FROM runs LEFT JOIN LATERAL (
    SELECT (data ->> 'loss')::double precision AS loss, events.step FROM events
    WHERE events.tenant_id = runs.tenant_id AND events.run_id = runs.run_id
        AND seq > event_seq - 200 AND type = 'step' AND jsonb_typeof(data -> 'loss') = 'number'
    ORDER BY seq DESC LIMIT 1
) AS newest ON true LEFT JOIN LATERAL (
    SELECT jsonb_build_object('step', events.step,
        'mean', CASE WHEN jsonb_typeof(data -> 'mean') = 'number' THEN data -> 'mean' END,
        'held_out_mean', CASE WHEN jsonb_typeof(data -> 'held_out_mean') = 'number'
            THEN data -> 'held_out_mean' END) AS evaluation
    FROM events
    WHERE events.tenant_id = runs.tenant_id AND events.run_id = runs.run_id
        AND seq > event_seq - 200 AND type = 'eval' AND data ->> 'name' = 'probe'
    ORDER BY seq DESC LIMIT 1
) AS evaluated ON true
WHERE runs.tenant_id = %s AND batch_id = %s AND deleted_at IS NULL ORDER BY batch_row
"""


def runs_of(conn: Connection, tenant_id: str, batch_id: str) -> list[BatchRun]:
    """The runs of a batch by row."""
    with conn.cursor(row_factory=class_row(BatchRun)) as cursor:
        return cursor.execute(_RUNS, (tenant_id, batch_id)).fetchall()


_NOT_OVER: Final = """
SELECT run_id FROM runs
WHERE tenant_id = %s AND batch_id = %s AND status NOT IN ('succeeded', 'failed', 'canceled')
ORDER BY lease_until IS NOT NULL, batch_row
"""


def runs_not_over(conn: Connection, tenant_id: str, batch_id: str) -> list[str]:
    """The ids of its runs that have not ended: first those that no worker holds."""
    return [row[0] for row in conn.execute(_NOT_OVER, (tenant_id, batch_id)).fetchall()]
