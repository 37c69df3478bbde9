"""Relays of runs' metrics to Weights & Biases, as their tenants see them.

``relay_work`` has what the process that relays does with them.
"""

from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRelay:
    """One row of ``metric_relays``."""

    run_id: str
    tenant_id: str
    secret: str
    """Name of the tenant's secret of the kind ``wandb``."""
    status: str
    """``running``, ``succeeded`` or ``failed``."""
    step: int | None
    """The last step whose metrics are there."""
    url: str | None
    """Of the run there; None until something was sent."""
    error: dict[str, Any] | None
    """Of the last try, where that failed."""


_INSERT: Final = "INSERT INTO metric_relays (run_id, tenant_id, secret) VALUES (%s, %s, %s)"


def insert(conn: Connection, tenant_id: str, run_id: str, secret: str) -> None:
    """Have the metrics of a run relayed that was created in this transaction."""
    conn.execute(_INSERT, (run_id, tenant_id, secret))


_FIND: Final = SQL("""
SELECT {columns} FROM metric_relays WHERE tenant_id = %s AND run_id = %s
""").format(columns=columns_of(MetricRelay))


def find(conn: Connection, tenant_id: str, run_id: str) -> MetricRelay | None:
    """None where the run's metrics are not relayed."""
    with conn.cursor(row_factory=class_row(MetricRelay)) as cursor:
        return cursor.execute(_FIND, (tenant_id, run_id)).fetchone()


# Those at work, too: one that fails now must not miss the new value.
_GO_ON: Final = """
UPDATE metric_relays SET status = 'running', tries = 0, due_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE tenant_id = %s AND secret = %s AND status <> 'succeeded'
"""


def go_on(conn: Connection, tenant_id: str, secret: str) -> None:
    """Let the relays that use a secret go on with the value that was stored in this transaction."""
    conn.execute(_GO_ON, (tenant_id, secret))
