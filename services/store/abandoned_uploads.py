"""Datasets that were never completed: they expire, and their files are deleted.

An expired dataset is ``rejected`` and counts in no quota. ``num_files`` stays NULL until its files
are deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.store import datasets, restore_guard, tenants, webhook_events
from services.store.database import Connection, columns_of, seconds

CODE: Final = "upload_expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandoned:
    """A dataset that stored contents which it may no longer need: expired, deleted or imported."""

    tenant_id: str
    dataset_id: str


_EXPIRE: Final = SQL("""
UPDATE datasets SET status = 'rejected', size_bytes = 0, errors = %(errors)s,
    updated_at = clock_timestamp()
WHERE dataset_id IN (
    SELECT dataset_id FROM datasets
    WHERE num_files IS NULL AND status = 'uploading' AND deleted_at IS NULL AND NOT {is_restored}
        AND updated_at < clock_timestamp() - make_interval(secs => %(after_s)s)
        AND NOT EXISTS (
            SELECT FROM dataset_imports AS import
            WHERE import.tenant_id = datasets.tenant_id
                AND import.dataset_id = datasets.dataset_id AND import.status = 'importing')
    ORDER BY updated_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING tenant_id, dataset_id
""").format(is_restored=restore_guard.IS_RESTORED)


def expire(conn: Connection, *, after: timedelta, limit: int) -> int:
    """Reject datasets whose upload nobody has gone on with for this long; returns how many.

    One that the service imports ends by its import, however long that waits. None where the
    database is restored from a backup: then they may be completed.
    """
    message = (
        f"The dataset was not completed, and for {after / timedelta(hours=1):g} hours nobody asked"
        " for its upload addresses. Create it again."
    )
    errors = Jsonb([{"pointer": "", "code": CODE, "message": message}])
    facts = {"errors": errors, "after_s": seconds(after), "limit": limit}
    expired = conn.execute(_EXPIRE, facts).fetchall()
    for tenant_id, dataset_id in expired:
        datasets.wake_runs(conn, tenant_id, dataset_id)
        webhook_events.announce_dataset(conn, tenant_id, dataset_id, status="rejected")
    return len(expired)


# In random order: those whose files cannot be deleted must not keep the others from their turn.
_ABANDONED: Final = SQL("""
SELECT {columns} FROM datasets
WHERE num_files IS NULL AND status = 'rejected' AND deleted_at IS NULL AND NOT {is_restored}
ORDER BY random() LIMIT %s
""").format(columns=columns_of(Abandoned), is_restored=restore_guard.IS_RESTORED)


def abandoned(conn: Connection, limit: int) -> list[Abandoned]:
    """Expired datasets whose files are to be deleted; none where the database is restored."""
    with conn.cursor(row_factory=class_row(Abandoned)) as cursor:
        return cursor.execute(_ABANDONED, (limit,)).fetchall()


_UNSHARED: Final = """
SELECT clock_timestamp(), ARRAY(
    SELECT DISTINCT sha256 FROM dataset_files
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s
    EXCEPT
    SELECT sha256 FROM datasets JOIN dataset_files USING (dataset_id)
    WHERE datasets.tenant_id = %(tenant_id)s AND dataset_id <> %(dataset_id)s
        AND deleted_at IS NULL)
"""


def unshared(conn: Connection, dataset: Abandoned) -> tuple[datetime, list[str]]:
    """The contents that no other dataset of the tenant lists, and when that was so.

    A dataset that is being deleted does not count.
    """
    facts = {"tenant_id": dataset.tenant_id, "dataset_id": dataset.dataset_id}
    row = conn.execute(_UNSHARED, facts).fetchone()
    assert row is not None
    return row[0], row[1]


# A transaction that creates a dataset, or adds files to one that is imported, takes far less than
# ten minutes. Each of them sets ``updated_at``.
_SHARED_SINCE: Final = """
SELECT DISTINCT sha256 FROM datasets JOIN dataset_files USING (dataset_id)
WHERE datasets.tenant_id = %(tenant_id)s AND dataset_id <> %(dataset_id)s AND deleted_at IS NULL
    AND datasets.updated_at > %(since)s - interval '10 minutes' AND sha256 = ANY(%(contents)s)
"""


def lock_unshared(
    conn: Connection, dataset: Abandoned, contents: list[str], since: datetime
) -> Iterator[str]:
    """Those of the contents that still no other dataset lists; none can come until the commit.

    Whoever creates a dataset waits for this transaction before its end, and is told only then
    which of its files are stored. The lock is taken at once. Delete each file before the next is
    asked for, so that the lock outlasts slow deletions; that raises DatabaseDownError where the
    lock is lost already.

    Args:
        since: when ``unshared`` named them.
    """
    tenants.lock_also_deleted(conn, dataset.tenant_id)
    facts = {
        "tenant_id": dataset.tenant_id,
        "dataset_id": dataset.dataset_id,
        "contents": contents,
        "since": since,
    }
    shared = {row[0] for row in conn.execute(_SHARED_SINCE, facts)}
    return _with_lock_kept(conn, [each for each in contents if each not in shared])


# Three tries of a request to the object store, with their pauses, take less than five minutes.
_KEEP_LOCK: Final = "SET LOCAL idle_in_transaction_session_timeout = '5min'"


def _with_lock_kept(conn: Connection, contents: list[str]) -> Iterator[str]:
    for each in contents:
        conn.execute(_KEEP_LOCK)
        yield each


_DELETE_FILES: Final = "DELETE FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s"
_SET_EMPTY: Final = "UPDATE datasets SET num_files = 0 WHERE tenant_id = %s AND dataset_id = %s"


def end(conn: Connection, dataset: Abandoned) -> None:
    """Its files are deleted."""
    conn.execute(_DELETE_FILES, (dataset.tenant_id, dataset.dataset_id))
    conn.execute(_SET_EMPTY, (dataset.tenant_id, dataset.dataset_id))
