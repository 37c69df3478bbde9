"""Expired leases: the dispatcher's sweep closes attempts whose holder stopped renewing."""

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.attempt_budgets import MAX_INFRA_FAILURES
from services.domain.failures import worker_lost
from services.store import outcomes
from services.store.database import Connection, columns_of
from services.store.run_rows import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadAttempt:
    """An attempt that the sweep closed."""

    run_id: str
    tenant_id: str
    fence: int
    worker_id: str | None
    status: str
    """Status of the run afterwards."""


# Locked rows are skipped: the holder may be renewing.
_DEAD: Final = """
SELECT run_id FROM runs
WHERE lease_until < clock_timestamp() AND (ring_after IS NULL OR ring_after <= clock_timestamp())
ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED
"""


def dead_runs(conn: Connection, limit: int) -> list[str]:
    """Runs whose lease has expired, the oldest first; call ``close_dead`` for each."""
    return [row[0] for row in conn.execute(_DEAD, (limit,))]


_LOCK_DEAD: Final = SQL("""
SELECT {columns} FROM runs WHERE run_id = %s AND lease_until < clock_timestamp()
FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run))


def close_dead(
    conn: Connection,
    run_id: str,
    *,
    max_attempts: int,
    max_infra_failures: int = MAX_INFRA_FAILURES,
) -> DeadAttempt | None:
    """End the attempt if its lease has expired; None where it is valid or the row is locked.

    Call it only when the database was reachable for a whole lease: after an outage every lease
    looks expired, although its holder may be about to renew.
    """
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_DEAD, (run_id,)).fetchone()
    if run is None:
        return None
    after = outcomes.end_failed(
        conn,
        run,
        "lost",
        worker_lost(),
        max_attempts=max_attempts,
        max_infra_failures=max_infra_failures,
    )
    return DeadAttempt(
        run_id=run.run_id,
        tenant_id=run.tenant_id,
        fence=run.fence,
        worker_id=run.worker_id,
        status=after.status,
    )
