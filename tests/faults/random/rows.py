"""What the service's own tables say, read past the proxies."""

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from tests.faults.random.stack import Stack

_OPEN = """
SELECT (SELECT count(*) FROM runs WHERE status NOT IN ('succeeded', 'failed', 'canceled'))
    + (SELECT count(*) FROM publications WHERE status NOT IN ('succeeded', 'failed'))
"""
_RUNS = """
SELECT run_id, tenant_id, status, status_reason->>'code' AS reason, fence, step, max_steps,
    result_key_prefix, result_manifest_sha256, metadata->>'submission' AS submission,
    lease_until IS NOT NULL AS is_held, offered_until > clock_timestamp() AS is_offered
FROM runs ORDER BY run_id
"""
_ATTEMPTS = """
SELECT run_id, fence, from_step, last_step, outcome, reason->>'code' AS reason
FROM attempts ORDER BY run_id, fence
"""
_FOLDERS = """
SELECT run_id, step, key_prefix, manifest_sha256 FROM checkpoints
UNION ALL
SELECT run_id, result_step, result_key_prefix, result_manifest_sha256 FROM runs
WHERE result_key_prefix IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    run_id: str
    tenant_id: str
    status: str
    reason: str | None
    fence: int
    step: int
    max_steps: int
    result_key_prefix: str | None
    result_manifest_sha256: str | None
    submission: str
    is_held: bool
    is_offered: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    run_id: str
    fence: int
    from_step: int
    last_step: int
    outcome: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderRow:
    """A stored checkpoint or result."""

    run_id: str
    step: int
    key_prefix: str
    manifest_sha256: str


def runs(conn: psycopg.Connection[Any]) -> list[RunRow]:
    with conn.cursor(row_factory=class_row(RunRow)) as cursor:
        return cursor.execute(_RUNS).fetchall()


def attempts(conn: psycopg.Connection[Any]) -> list[AttemptRow]:
    with conn.cursor(row_factory=class_row(AttemptRow)) as cursor:
        return cursor.execute(_ATTEMPTS).fetchall()


def folders(conn: psycopg.Connection[Any]) -> list[FolderRow]:
    with conn.cursor(row_factory=class_row(FolderRow)) as cursor:
        return cursor.execute(_FOLDERS).fetchall()


def open_runs(stack: Stack) -> int:
    """Runs and publications that are not over; 1 while the database is down."""
    with contextlib.suppress(psycopg.OperationalError), stack.database() as conn:
        row = conn.execute(_OPEN).fetchone()
        assert row is not None
        return int(row[0])
    return 1
