"""Changes of a run by its tenant: priority, limits and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import InvalidRequestError, Problem, RunOverError
from services.domain.states import RunStatus
from services.store import run_control, run_limits, runs, transitions
from services.store.database import Connection, columns_of
from services.store.run_rows import Run

MAX_METADATA: Final = 16
"""Pairs of metadata that a run may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChanges:
    """What is to be changed; everything else stays as it is."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Column → new value: ``priority``, ``max_cost_micros``, ``max_gpu_s`` and ``deadline``."""
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    """Merged into the run's metadata; None removes a pair."""
    clears_metadata: bool = False
    """Remove all pairs first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Changeable:
    priority: int
    max_cost_micros: int | None
    max_gpu_s: float | None
    deadline: datetime | None
    metadata: dict[str, Any]


_CHANGE: Final = SQL("""
UPDATE runs SET priority = %(priority)s, max_cost_micros = %(max_cost_micros)s,
    max_gpu_s = %(max_gpu_s)s, deadline = %(deadline)s, metadata = %(metadata)s,
    version = version + 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Run))


def change(conn: Connection, tenant_id: str, run_id: str, changes: RunChanges) -> Run:
    """Change the run; nothing is written where nothing differs.

    A run that has reached a new limit already is paused. Raises NotFoundError, RunOverError where
    the run is over and more than its metadata is to be changed, and InvalidRequestError where it
    would have too much metadata.
    """
    run = runs.lock(conn, tenant_id, run_id)
    if changes.values and run.is_over:
        raise RunOverError(run.status)
    before = _Changeable(
        priority=run.priority,
        max_cost_micros=run.max_cost_micros,
        max_gpu_s=run.max_gpu_s,
        deadline=run.deadline,
        metadata=run.metadata,
    )
    after = replace(before, **changes.values, metadata=_merged(run.metadata, changes))
    changed = [name for name in before.__slots__ if getattr(before, name) != getattr(after, name)]
    if not changed:
        return run
    facts = {
        **{name: getattr(after, name) for name in after.__slots__},
        "metadata": Jsonb(after.metadata),
        "tenant_id": tenant_id,
        "run_id": run_id,
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        row = cursor.execute(_CHANGE, facts).fetchone()
    assert row is not None  # it is locked
    row = transitions.announce(conn, row, "run.changed", {"fields": changed})
    reason = run_limits.reached(conn, row)
    if reason is not None and row.status in {RunStatus.QUEUED, RunStatus.RUNNING}:
        row = run_control.pause_run(conn, row, reason=reason)
    return row


def _merged(metadata: Mapping[str, Any], changes: RunChanges) -> dict[str, Any]:
    kept = {} if changes.clears_metadata else dict(metadata)
    merged = {k: v for k, v in {**kept, **changes.metadata}.items() if v is not None}
    if len(merged) > MAX_METADATA:
        message = f"A run has at most {MAX_METADATA} pairs of metadata; remove some with null."
        raise InvalidRequestError([Problem(pointer="/metadata", code="bad_value", message=message)])
    return merged
