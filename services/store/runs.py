"""Runs as their tenants see them: created and read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Json, Jsonb

from services.domain.errors import NotFoundError
from services.domain.ids import new_id
from services.domain.ledger import ChildEvent
from services.domain.states import Stage
from services.store import metric_relays, run_documents, run_events, webhook_events
from services.store.database import WORK, Connection, columns_of, notify
from services.store.run_rows import Run
from services.traces.spans import current_traceparent

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlace:
    """Where a run is in its batch."""

    batch_id: str
    row: int
    """From 0."""
    options: dict[str, Any]
    """What it has other than the batch's other runs: name of an option → its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A validated request with its plan, ready to be stored."""

    request: dict[str, Any]
    """As sent."""
    plan: dict[str, Any]
    """``trainer_core.config.plan.Plan`` as JSON."""
    plan_digest: str
    warnings: list[str] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    """``trainer_core.config.plan.problems.Notice`` as JSON, each."""
    base_model: str
    """Name on the operator's list of base models."""
    datasets: dict[str, str]
    """Backend id → dataset id."""
    metadata: dict[str, Any] = field(default_factory=dict)
    gpu_class: str
    priority: int = 0
    """Runs with a higher number go first."""
    max_steps: int
    """0: its length is in epochs, and counted when its data is indexed."""
    max_cost_micros: int | None = None
    max_gpu_s: float | None = None
    deadline: datetime | None = None
    batch: BatchPlace | None = None
    work: dict[str, Any] | None = None
    """``trainer_core.config.plan.work.Work`` as JSON, for estimates."""
    parent_run_id: str | None = None
    """The run that it was cloned from."""
    start_adapter: dict[str, Any] | None = None
    """``services.domain.starts.StoredStart`` as JSON; None: it starts from no adapter."""
    wandb_secret: str | None = None
    """Name of the tenant's secret with which its metrics are relayed; None: they are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of ``events``."""

    run_id: str
    seq: int
    """From 1, without gaps."""
    fence: int
    type: str
    step: int
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One row of ``checkpoints``: a committed checkpoint."""

    run_id: str
    step: int
    fence: int
    key_prefix: str
    manifest_sha256: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One row of ``attempts``."""

    attempt_id: str
    run_id: str
    fence: int
    worker_id: str
    node: str
    """Machine of the worker; empty where that is unknown."""
    from_step: int
    """Step of the checkpoint that it started from."""
    last_step: int
    """The last step that it reported."""
    outcome: str | None
    """None while held; ``finished``, ``stopped``, ``failed``, ``lost``."""
    reason: dict[str, Any] | None
    lost_steps: int | None
    """Steps after the newest checkpoint; None while held, and where it finished."""
    lost_s: float | None
    """Time since that checkpoint was stored, or since its start where it stored none."""
    charged_s: float
    cost_micros: int
    log_start_byte: int | None
    """Where its output starts in the run's log; None where it has printed nothing yet."""
    started_at: datetime
    ended_at: datetime | None


_CREATE: Final = SQL("""
INSERT INTO runs (run_id, tenant_id, plan_digest, warnings, base_model, datasets,
    metadata, gpu_class, priority, max_steps, work, parent_run_id, max_cost_micros, max_gpu_s,
    deadline, batch_id, batch_row, batch_options, start_adapter, traceparent, status, stage,
    ring_after)
VALUES (%(run_id)s, %(tenant_id)s, %(plan_digest)s, %(warnings)s,
    %(base_model)s, %(datasets)s, %(metadata)s, %(gpu_class)s, %(priority)s, %(max_steps)s,
    %(work)s, %(parent_run_id)s, %(max_cost_micros)s, %(max_gpu_s)s, %(deadline)s, %(batch_id)s,
    %(batch_row)s, %(batch_options)s, %(start_adapter)s, %(traceparent)s, 'queued', 'admission',
    clock_timestamp())
RETURNING {columns}
""").format(columns=columns_of(Run))


def create(conn: Connection, tenant_id: str, new: NewRun) -> Run:
    """A new run in ``queued/admission``.

    Check afterwards what it names, and the quotas first: from then on nothing of it can be deleted.
    """
    facts = {
        "run_id": new_id("run"),
        "tenant_id": tenant_id,
        "plan_digest": new.plan_digest,
        "warnings": Jsonb(new.warnings),
        "base_model": new.base_model,
        "datasets": Jsonb(new.datasets),
        "metadata": Jsonb(new.metadata),
        "gpu_class": new.gpu_class,
        "priority": new.priority,
        "max_steps": new.max_steps,
        "max_cost_micros": new.max_cost_micros,
        "max_gpu_s": new.max_gpu_s,
        "deadline": new.deadline,
        "batch_id": new.batch.batch_id if new.batch else None,
        "batch_row": new.batch.row if new.batch else None,
        "batch_options": Json(new.batch.options) if new.batch else None,
        "work": None if new.work is None else Jsonb(new.work),
        "parent_run_id": new.parent_run_id,
        "start_adapter": None if new.start_adapter is None else Jsonb(new.start_adapter),
        "traceparent": current_traceparent(),
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_CREATE, facts).fetchone()
    assert run is not None
    first = ChildEvent(type="run.queued", step=0, data={"stage": Stage.ADMISSION, "reason": None})
    with conn.pipeline():  # in one round trip
        run_documents.insert(
            conn,
            tenant_id,
            run.run_id,
            request=new.request,
            plan=new.plan,
            notices=new.notices,
        )
        if new.wandb_secret is not None:
            metric_relays.insert(conn, tenant_id, run.run_id, new.wandb_secret)
        run_events.append(conn, run.run_id, [first])
        webhook_events.announce_status(conn, run)
        notify(conn, WORK)
    return run


_GET: Final = SQL("""
SELECT {columns} FROM runs WHERE tenant_id = %s AND run_id = %s AND deleted_at IS NULL
""").format(columns=columns_of(Run))


def get(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """Raises NotFoundError, also where the run is being deleted."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_GET, (tenant_id, run_id)).fetchone()
    if run is None:
        raise NotFoundError("run", run_id)
    return run


_LOCK: Final = SQL("""
SELECT {columns} FROM runs WHERE tenant_id = %s AND run_id = %s AND deleted_at IS NULL FOR UPDATE
""").format(columns=columns_of(Run))


def lock(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """The run, locked until the transaction ends. Raises NotFoundError."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK, (tenant_id, run_id)).fetchone()
    if run is None:
        raise NotFoundError("run", run_id)
    return run


_EVENTS: Final = SQL("""
SELECT {columns} FROM events
WHERE tenant_id = %s AND run_id = %s AND seq > %s ORDER BY seq LIMIT %s
""").format(columns=columns_of(Event))


def events(
    conn: Connection, tenant_id: str, run_id: str, after_seq: int, limit: int
) -> list[Event]:
    """Events after ``after_seq`` (0 for all), oldest first; raises NotFoundError."""
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        found = cursor.execute(_EVENTS, (tenant_id, run_id, after_seq, limit)).fetchall()
    return _of_existing(conn, tenant_id, run_id, found)


_CHECKPOINTS: Final = SQL("""
SELECT {columns} FROM checkpoints
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
    AND (%(before_step)s::bigint IS NULL OR step < %(before_step)s)
ORDER BY step DESC LIMIT %(limit)s
""").format(columns=columns_of(Checkpoint))


def checkpoints(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    limit: int | None = None,
    *,
    before_step: int | None = None,
) -> list[Checkpoint]:
    """The committed checkpoints, newest first. Raises NotFoundError.

    Args:
        limit: at most as many; None for all.
        before_step: only those of smaller steps.
    """
    facts = {"tenant_id": tenant_id, "run_id": run_id, "limit": limit, "before_step": before_step}
    with conn.cursor(row_factory=class_row(Checkpoint)) as cursor:
        found = cursor.execute(_CHECKPOINTS, facts).fetchall()
    return _of_existing(conn, tenant_id, run_id, found)


_ATTEMPTS: Final = SQL("""
SELECT {columns} FROM attempts
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
    AND (%(before_fence)s::bigint IS NULL OR fence < %(before_fence)s)
ORDER BY fence DESC LIMIT %(limit)s
""").format(columns=columns_of(Attempt))


def attempts(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    limit: int | None = None,
    *,
    before_fence: int | None = None,
) -> list[Attempt]:
    """The newest attempts, oldest first. Raises NotFoundError.

    Args:
        limit: at most as many; None for all.
        before_fence: only those of smaller fences.
    """
    facts = {"tenant_id": tenant_id, "run_id": run_id, "limit": limit, "before_fence": before_fence}
    with conn.cursor(row_factory=class_row(Attempt)) as cursor:
        found = cursor.execute(_ATTEMPTS, facts).fetchall()
    return _of_existing(conn, tenant_id, run_id, found[::-1])


def _of_existing(conn: Connection, tenant_id: str, run_id: str, found: Sequence[T]) -> list[T]:
    """Return ``found``; raises NotFoundError where it is empty and the run does not exist."""
    if not found:
        get(conn, tenant_id, run_id)
    return list(found)
