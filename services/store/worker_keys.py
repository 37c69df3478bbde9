"""Keys of remote workers. A key is one worker: it fixes the worker's id, GPU class and node."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.api_keys import new_key
from services.domain.errors import IdempotencyMismatchError, NotFoundError
from services.domain.ids import new_id
from services.store import api_keys
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerKey:
    """One row of ``worker_keys``, without what its key is checked against."""

    key_id: str
    name: str
    worker_id: str
    gpu_class: str
    node: str
    created_by: str
    """The id of an operator's key; empty: made at the database."""
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    last_used_at: datetime | None
    """A minute old at most; None: never used."""


_CREATE: Final = SQL("""
INSERT INTO worker_keys (key_id, name, worker_id, gpu_class, node, key_hmac, created_by,
    request_key, expires_at)
VALUES (%(key_id)s, %(name)s, %(worker_id)s, %(gpu_class)s, %(node)s, %(key_hmac)s, %(created_by)s,
    %(request_key)s, %(expires_at)s)
ON CONFLICT (request_key) DO NOTHING RETURNING {columns}
""").format(columns=columns_of(WorkerKey))

_OF_REQUEST: Final = SQL("SELECT {columns} FROM worker_keys WHERE request_key = %s").format(
    columns=columns_of(WorkerKey)
)


def create(
    conn: Connection,
    pepper: bytes,
    *,
    name: str,
    gpu_class: str,
    node: str | None = None,
    expires_at: datetime | None = None,
    created_by: str = "",
    request_key: str | None = None,
) -> tuple[WorkerKey, str | None]:
    """A new key for a new worker, and its secret ``rvw_…``, once for each ``request_key``.

    For one that has made a key already: that key, without its secret. Raises
    IdempotencyMismatchError where that is another worker's.

    Args:
        node: the machine, for workers that share one; None: a machine of its own, named ``name``.
        created_by: the id of an operator's key; empty: at the database.
    """
    secret = new_key("rvw_")
    facts = {
        "key_id": new_id("key"),
        "name": name,
        "worker_id": new_id("wrk"),
        "gpu_class": gpu_class,
        "node": node or name,
        "key_hmac": api_keys.digest(pepper, secret),
        "created_by": created_by,
        "request_key": request_key,
        "expires_at": expires_at,
    }
    with conn.cursor(row_factory=class_row(WorkerKey)) as cursor:
        if key := cursor.execute(_CREATE, facts).fetchone():
            return key, secret
        key = cursor.execute(_OF_REQUEST, (request_key,)).fetchone()
    assert key is not None
    if (key.name, key.gpu_class, key.node) != (name, gpu_class, facts["node"]):
        raise IdempotencyMismatchError(f"key {request_key} made a key of another worker")
    return key, None


_LIST: Final = SQL("""
SELECT {columns} FROM worker_keys
WHERE revoked_at IS NULL AND (%(before)s::text IS NULL OR key_id < %(before)s)
ORDER BY key_id DESC LIMIT %(limit)s
""").format(columns=columns_of(WorkerKey))


def list_page(conn: Connection, limit: int, before: str | None = None) -> list[WorkerKey]:
    """Those that are not revoked, newest first."""
    with conn.cursor(row_factory=class_row(WorkerKey)) as cursor:
        return cursor.execute(_LIST, {"limit": limit, "before": before}).fetchall()


_GET: Final = SQL("""
SELECT {columns} FROM worker_keys WHERE key_id = %s AND revoked_at IS NULL
""").format(columns=columns_of(WorkerKey))


def get(conn: Connection, key_id: str) -> WorkerKey:
    """Raises NotFoundError where there is none, or it was revoked."""
    with conn.cursor(row_factory=class_row(WorkerKey)) as cursor:
        key = cursor.execute(_GET, (key_id,)).fetchone()
    if key is None:
        raise NotFoundError("worker key", key_id)
    return key


_REVOKE: Final = """
UPDATE worker_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()),
    revoked_by = coalesce(revoked_by, %(revoked_by)s)
WHERE key_id = %(key_id)s
"""


def revoke(conn: Connection, key_id: str, *, revoked_by: str = "") -> None:
    """The key stops working with the commit; again does nothing. Raises NotFoundError.

    Args:
        revoked_by: as ``created_by``.
    """
    if conn.execute(_REVOKE, {"key_id": key_id, "revoked_by": revoked_by}).rowcount == 0:
        raise NotFoundError("worker key", key_id)
