"""Deletions of runs, datasets and tenants: asked for, claimed, reported.

What is to be deleted is hidden in the transaction that asks for it. The process ``results`` then
deletes it in steps, under a lease and a fence like a run's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import (
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    Problem,
    StillNeededError,
)
from services.domain.ids import new_id
from services.store import restore_guard, tenants
from services.store.database import WORK, Connection, columns_of, notify, seconds

Kind = Literal["run", "dataset", "tenant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """One row of ``deletions``."""

    deletion_id: str
    tenant_id: str
    kind: Kind
    target: str
    """The id of what is deleted."""
    status: str
    """``pending``, ``running`` or ``succeeded``."""
    waits_for: str | None
    """Why it does not go on now; None where it does."""
    batch: list[tuple[str, int]]
    """Objects that are being deleted, with their sizes in bytes; the report has them afterwards."""
    report: dict[str, Any]
    fence: int
    created_at: datetime
    finished_at: datetime | None


_INSERT: Final = SQL("""
INSERT INTO deletions (deletion_id, tenant_id, kind, target)
VALUES (%(deletion_id)s, %(tenant_id)s, %(kind)s, %(target)s)
RETURNING {columns}
""").format(columns=columns_of(Deletion))


def _insert(conn: Connection, tenant_id: str, kind: Kind, target: str) -> Deletion:
    facts = {
        "deletion_id": new_id("del"),
        "tenant_id": tenant_id,
        "kind": kind,
        "target": target,
    }
    with conn.cursor(row_factory=class_row(Deletion)) as cursor:
        deletion = cursor.execute(_INSERT, facts).fetchone()
    assert deletion is not None
    notify(conn, WORK)
    return deletion


_OF_TARGET: Final = SQL("""
SELECT {columns} FROM deletions WHERE tenant_id = %s AND kind = %s AND target = %s
""").format(columns=columns_of(Deletion))


def find(conn: Connection, tenant_id: str, kind: Kind, target: str) -> Deletion | None:
    """The deletion of this run, dataset or tenant; None where nobody asked for it."""
    with conn.cursor(row_factory=class_row(Deletion)) as cursor:
        return cursor.execute(_OF_TARGET, (tenant_id, kind, target)).fetchone()


_GET: Final = SQL("""
SELECT {columns} FROM deletions
WHERE deletion_id = %(deletion_id)s
    AND (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
""").format(columns=columns_of(Deletion))


def get(conn: Connection, deletion_id: str, *, tenant_id: str | None) -> Deletion:
    """Raises NotFoundError. ``tenant_id``: None for operators, who see those of all tenants."""
    facts = {"deletion_id": deletion_id, "tenant_id": tenant_id}
    with conn.cursor(row_factory=class_row(Deletion)) as cursor:
        deletion = cursor.execute(_GET, facts).fetchone()
    if deletion is None:
        raise NotFoundError("deletion", deletion_id)
    return deletion


_NAMED: Final = 3
_HIDE_RUN: Final = """
UPDATE runs SET deleted_at = clock_timestamp()
WHERE tenant_id = %s AND run_id = %s AND deleted_at IS NULL
    AND status IN ('succeeded', 'failed', 'canceled')
"""
_RUN_STATUS: Final = """
SELECT status FROM runs WHERE tenant_id = %s AND run_id = %s AND deleted_at IS NULL
"""


def delete_run(conn: Connection, tenant_id: str, run_id: str) -> tuple[Deletion, bool]:
    """Hide a run that is over, and have it deleted; also whether that is new.

    Raises NotFoundError, and StillNeededError where the run is not over, or open runs, which it
    names, start from its adapter.
    """
    tenants.lock(conn, tenant_id)  # no new run
    if needing := _open_runs_from(conn, tenant_id, run_id):
        raise StillNeededError(
            f"Runs that are not over start from this run: {', '.join(needing)}. Cancel them, or "
            "wait."
        )
    if conn.execute(_HIDE_RUN, (tenant_id, run_id)).rowcount:
        return _insert(conn, tenant_id, "run", run_id), True
    row = conn.execute(_RUN_STATUS, (tenant_id, run_id)).fetchone()
    if row is not None:
        raise StillNeededError(f"The run is {row[0]}. Cancel it, and delete it when it is over.")
    return _asked_before(conn, tenant_id, "run", run_id), False


_OPEN_RUNS_FROM: Final = """
SELECT run_id FROM runs
WHERE tenant_id = %(tenant_id)s AND status NOT IN ('succeeded', 'failed', 'canceled')
    AND start_adapter ->> 'source' = %(source)s
ORDER BY run_id LIMIT %(limit)s
"""


def _open_runs_from(conn: Connection, tenant_id: str, source: str) -> list[str]:
    """Some runs that are not over and start from an adapter of this run or dataset."""
    facts = {"tenant_id": tenant_id, "source": source, "limit": _NAMED}
    return [row[0] for row in conn.execute(_OPEN_RUNS_FROM, facts)]


_OPEN_RUNS_OF_DATASET: Final = """
SELECT run_id FROM runs
WHERE tenant_id = %(tenant_id)s AND status NOT IN ('succeeded', 'failed', 'canceled')
    AND %(dataset_id)s IN (SELECT jsonb_path_query(datasets, '$.*') #>> '{}')
ORDER BY run_id LIMIT %(limit)s
"""
_HIDE_DATASET: Final = """
UPDATE datasets SET deleted_at = clock_timestamp(), ring_after = NULL
WHERE tenant_id = %s AND dataset_id = %s AND deleted_at IS NULL
"""


def delete_dataset(conn: Connection, tenant_id: str, dataset_id: str) -> tuple[Deletion, bool]:
    """Hide a dataset that no open run needs, and have it deleted; also whether that is new.

    Raises NotFoundError, and StillNeededError which names open runs.
    """
    tenants.lock(conn, tenant_id)  # no new run
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id, "limit": _NAMED}
    found = [row[0] for row in conn.execute(_OPEN_RUNS_OF_DATASET, facts)]
    found += _open_runs_from(conn, tenant_id, dataset_id)
    if found:
        raise StillNeededError(
            f"Runs that are not over need this dataset: {', '.join(found[:_NAMED])}. Cancel them, "
            "or wait."
        )
    if conn.execute(_HIDE_DATASET, (tenant_id, dataset_id)).rowcount:
        return _insert(conn, tenant_id, "dataset", dataset_id), True
    return _asked_before(conn, tenant_id, "dataset", dataset_id), False


_HIDE_TENANT: Final = """
UPDATE tenants SET deleted_at = clock_timestamp() WHERE tenant_id = %s AND deleted_at IS NULL
"""
_REVOKE_KEYS: Final = """
UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = %s AND revoked_at IS NULL
"""


def delete_tenant(conn: Connection, tenant_id: str, *, name: str) -> tuple[Deletion, bool]:
    """Revoke the tenant's keys, and have everything of it deleted; also whether that is new.

    Args:
        name: the tenant's, as a confirmation.

    Raises NotFoundError, and InvalidRequestError where the name is another one.
    """
    if tenants.lock_also_deleted(conn, tenant_id):
        return _asked_before(conn, tenant_id, "tenant", tenant_id), False
    if tenants.get(conn, tenant_id).name != name:
        message = "This is not the tenant's name. Give the name, to confirm the deletion."
        raise InvalidRequestError(
            [Problem(pointer="query:name", code="not_confirmed", message=message)]
        )
    conn.execute(_HIDE_TENANT, (tenant_id,))
    conn.execute(_REVOKE_KEYS, (tenant_id,))
    return _insert(conn, tenant_id, "tenant", tenant_id), True


def _asked_before(conn: Connection, tenant_id: str, kind: Kind, target: str) -> Deletion:
    deletion = find(conn, tenant_id, kind, target)
    if deletion is None:
        raise NotFoundError(kind, target)
    return deletion


_CLAIM: Final = SQL("""
UPDATE deletions SET status = 'running', fence = fence + 1, updated_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE deletion_id = (
    SELECT deletion_id FROM deletions
    WHERE ring_after <= clock_timestamp() AND status <> 'succeeded' AND NOT {is_restored}
    ORDER BY ring_after LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING {columns}
""").format(columns=columns_of(Deletion), is_restored=restore_guard.IS_RESTORED)


def claim(conn: Connection, lease: timedelta) -> Deletion | None:
    """The deletion that is due for the longest time; None where there is none.

    None also where the database is restored from a backup, until its runs are reconciled.
    """
    with conn.cursor(row_factory=class_row(Deletion)) as cursor:
        return cursor.execute(_CLAIM, {"lease_s": seconds(lease)}).fetchone()


_SAVE: Final = """
UPDATE deletions SET batch = %(batch)s, report = %(report)s, waits_for = NULL,
    updated_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE deletion_id = %(deletion_id)s AND fence = %(fence)s AND status = 'running'
RETURNING true
"""


def save(
    conn: Connection,
    deletion: Deletion,
    report: dict[str, Any],
    batch: Sequence[tuple[str, int]] = (),
    *,
    lease: timedelta,
) -> None:
    """Store how far it came, in the transaction of what it did, and renew its lease.

    Raises LeaseLostError where another process has claimed it.
    """
    facts = {
        "deletion_id": deletion.deletion_id,
        "fence": deletion.fence,
        "report": Jsonb(report),
        "batch": Jsonb([list(each) for each in batch]),
        "lease_s": seconds(lease),
    }
    if conn.execute(_SAVE, facts).fetchone() is None:
        raise LeaseLostError(run_id=deletion.deletion_id, fence=deletion.fence)


_PAUSE: Final = """
UPDATE deletions SET waits_for = %s, lease_until = NULL, updated_at = clock_timestamp(),
    ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE deletion_id = %s AND fence = %s AND status = 'running'
"""


def pause(
    conn: Connection, deletion: Deletion, *, waits_for: str | None, again_after: timedelta
) -> None:
    """Let it go on later; no change where another process has claimed it."""
    facts = (waits_for, seconds(again_after), deletion.deletion_id, deletion.fence)
    conn.execute(_PAUSE, facts)


_SUCCEED: Final = """
UPDATE deletions SET status = 'succeeded', report = %s, batch = '[]', waits_for = NULL,
    lease_until = NULL, ring_after = NULL, updated_at = clock_timestamp(),
    finished_at = clock_timestamp()
WHERE deletion_id = %s AND fence = %s AND status = 'running'
RETURNING true
"""


def succeed(conn: Connection, deletion: Deletion, report: dict[str, Any]) -> None:
    """Everything is deleted. Raises LeaseLostError where another process has claimed it."""
    facts = (Jsonb(report), deletion.deletion_id, deletion.fence)
    if conn.execute(_SUCCEED, facts).fetchone() is None:
        raise LeaseLostError(run_id=deletion.deletion_id, fence=deletion.fence)
