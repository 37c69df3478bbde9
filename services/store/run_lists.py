"""Lists of a tenant's runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.store.database import Connection, columns_of
from services.store.run_rows import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFilter:
    """Which runs a list has; None: whichever."""

    batch_id: str | None = None
    status: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Pairs that they all have."""
    created_after: datetime | None = None
    created_before: datetime | None = None


ALL: Final = RunFilter()

_LIST: Final = SQL("""
SELECT {columns} FROM runs
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
    AND (%(after)s::text IS NULL OR run_id < %(after)s)
    AND (%(batch_id)s::text IS NULL OR batch_id = %(batch_id)s)
    AND (%(status)s::text IS NULL OR status = %(status)s)
    AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
    AND (%(created_after)s::timestamptz IS NULL OR created_at > %(created_after)s)
    AND (%(created_before)s::timestamptz IS NULL OR created_at < %(created_before)s)
ORDER BY run_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Run))


def list_page(
    conn: Connection,
    tenant_id: str,
    limit: int,
    after: str | None = None,
    only: RunFilter = ALL,
) -> list[Run]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {
        "tenant_id": tenant_id,
        "limit": limit,
        "after": after,
        "batch_id": only.batch_id,
        "status": only.status,
        "metadata": Jsonb(dict(only.metadata)) if only.metadata else None,
        "created_after": only.created_after,
        "created_before": only.created_before,
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()
