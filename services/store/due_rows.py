"""Publications that are due (``ring_after`` has passed).

The dispatcher takes due rows and rings for each: it sends a Celery message that names the row. Of
several dispatchers each row goes to one, because locked rows are skipped.
"""

from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A due row, for which a ring must be sent."""

    tenant_id: str
    id: str
    traceparent: str | None
    """The trace that its handler goes on with; None: it has none."""


# Rings are repeated until a worker takes the row. Each pause is as long as the row has waited.
_AGAIN: Final = SQL(
    "clock_timestamp() + least(make_interval(secs => 300),"
    " greatest(make_interval(secs => 10), clock_timestamp() - {since}))"
)

_PUBLICATIONS: Final = SQL("""
WITH due AS (
    SELECT publication_id FROM publications
    WHERE status IN ('pending', 'running') AND ring_after <= clock_timestamp()
    ORDER BY ring_after LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE publications SET ring_after = {again} FROM due
WHERE publications.publication_id = due.publication_id
RETURNING publications.tenant_id, publications.publication_id AS id, publications.traceparent
""").format(again=_AGAIN.format(since=SQL("updated_at")))


def take_publications(conn: Connection, limit: int) -> list[Due]:
    """Take publications that are due."""
    return _take(conn, _PUBLICATIONS, limit)


def _take(conn: Connection, query: Any, limit: int) -> list[Due]:
    with conn.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(query, (limit,)).fetchall()


_PUT_BACK_PUBLICATION: Final = """
UPDATE publications SET ring_after = clock_timestamp()
WHERE tenant_id = %s AND publication_id = %s AND ring_after IS NOT NULL
"""


def put_back_publication(conn: Connection, due: Due) -> None:
    """Make the publication due again, because the ring could not be sent."""
    conn.execute(_PUT_BACK_PUBLICATION, (due.tenant_id, due.id))
