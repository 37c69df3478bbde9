"""Deletions that a restored database has forgotten: asked for again, from their reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.store import outcomes, restore_guard, run_control
from services.store.database import Connection, columns_of
from services.store.deletions import Kind
from services.store.run_rows import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgottenDeletion:
    """A deletion as its report in the object store names it."""

    deletion_id: str
    tenant_id: str
    kind: Kind
    target: str
    report: Mapping[str, Any]
    asked_at: str


_INSERT: Final = """
INSERT INTO deletions (deletion_id, tenant_id, kind, target, report, created_at)
VALUES (%(deletion_id)s, %(tenant_id)s, %(kind)s, %(target)s, %(report)s, %(asked_at)s)
ON CONFLICT DO NOTHING
"""
_HIDE: Final[dict[Kind, tuple[str, ...]]] = {
    "run": (
        """
UPDATE runs SET deleted_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND run_id = %(target)s
""",
    ),
    "dataset": (
        """
UPDATE datasets SET deleted_at = clock_timestamp(), ring_after = NULL
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(target)s
""",
    ),
    "tenant": (
        "UPDATE tenants SET deleted_at = clock_timestamp() WHERE tenant_id = %(target)s",
        """
UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE tenant_id = %(target)s
""",
    ),
}
_OPEN_RUNS: Final = SQL("""
SELECT {columns} FROM runs
WHERE tenant_id = %(tenant_id)s AND status NOT IN ('succeeded', 'failed', 'canceled')
    AND (%(kind)s = 'tenant' OR run_id = %(target)s OR start_adapter ->> 'source' = %(target)s
        OR %(target)s IN (SELECT jsonb_path_query(datasets, '$.*') #>> '{{}}'))
ORDER BY run_id FOR UPDATE
""").format(columns=columns_of(Run))


def ask_again(conn: Connection, forgotten: ForgottenDeletion) -> bool:
    """Hide what was deleted, and have it deleted again; False where the database knows of it.

    Runs that are open again are canceled: they were over when the deletion was asked for, or
    belonged to a deleted tenant. No change where the database counts as reconciled already.
    """
    if not restore_guard.is_restored(conn):
        return False
    facts = {
        "deletion_id": forgotten.deletion_id,
        "tenant_id": forgotten.tenant_id,
        "kind": forgotten.kind,
        "target": forgotten.target,
        "report": Jsonb(dict(forgotten.report)),
        "asked_at": forgotten.asked_at,
    }
    if conn.execute(_INSERT, facts).rowcount == 0:
        return False
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        open_runs = cursor.execute(_OPEN_RUNS, facts).fetchall()
    for run in open_runs:
        ended = outcomes.end_stopped(conn, run) if run.is_held else run
        if not ended.is_over:
            run_control.cancel(conn, run.tenant_id, run.run_id, now=True)
    for statement in _HIDE[forgotten.kind]:
        conn.execute(statement.encode(), facts)
    return True
