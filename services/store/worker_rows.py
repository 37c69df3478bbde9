"""The workers as their operators see them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """One row of ``workers``."""

    worker_id: str
    kind: str
    gpu_class: str
    version: str
    node: str
    draining: bool
    drain_reason: dict[str, Any] | None
    """Why it cannot work; None where it was asked to stop, or works."""
    run_id: str | None
    started_at: datetime
    heartbeat_at: datetime


_LIST: Final = SQL("""
SELECT {columns} FROM workers WHERE (%(after)s::text IS NULL OR worker_id < %(after)s)
ORDER BY worker_id DESC LIMIT %(limit)s
""").format(columns=columns_of(WorkerRow))


def list_page(conn: Connection, limit: int, after: str | None = None) -> list[WorkerRow]:
    """All workers, newest first; ``after`` is the last id of the page before."""
    with conn.cursor(row_factory=class_row(WorkerRow)) as cursor:
        return cursor.execute(_LIST, {"limit": limit, "after": after}).fetchall()
