"""Cache shards: named by the digest of their spec, built by any builder, kept once ``done``."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.failures import backoff
from services.domain.ledger import CachedShard
from services.store.database import WORK, Connection, columns_of, notify, seconds
from trainer_core.process.failure import Failure, failure_as_json

MAX_TRIES: Final = 8
"""Failed builds of a shard after which its runs fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """A shard that is to be built."""

    tenant_id: str
    digest: str
    kind: str
    """``latents`` or ``text``."""
    spec: dict[str, Any]
    """``trainer_core.data.index.ShardSpec`` as JSON."""
    base_model: str
    """Name on the operator's list of base models."""
    attempts: int
    """Failed builds so far."""


_TO_BUILD: Final = SQL("""
UPDATE cache_shards SET ring_after = clock_timestamp() + interval '1 minute'
WHERE tenant_id = %s AND digest = %s AND status = 'pending'
RETURNING {columns}
""").format(columns=columns_of(ShardWork))


def to_build(conn: Connection, tenant_id: str, digest: str) -> ShardWork | None:
    """The shard, if it is not built yet; the next ring is due in a minute.

    Two builders may build the same shard: the object store keeps the first manifest, and both
    report that one.
    """
    with conn.cursor(row_factory=class_row(ShardWork)) as cursor:
        return cursor.execute(_TO_BUILD, (tenant_id, digest)).fetchone()


_DONE: Final = """
UPDATE cache_shards SET status = 'done', manifest_sha256 = %s, size_bytes = %s, error = NULL,
    ring_after = NULL, done_at = clock_timestamp()
WHERE tenant_id = %s AND digest = %s AND status <> 'done'
RETURNING true
"""


def done(conn: Connection, tenant_id: str, digest: str, shard: CachedShard) -> None:
    """Record that the shard is stored with this manifest. Idempotent."""
    facts = (shard.manifest_sha256, shard.size_bytes, tenant_id, digest)
    if conn.execute(_DONE, facts).fetchone() is not None:
        notify(conn, WORK)


_REBUILD: Final = """
UPDATE cache_shards SET status = 'pending', attempts = 0,
    ring_after = clock_timestamp() + interval '5 seconds'
WHERE tenant_id = %s AND digest = %s AND manifest_sha256 = %s AND status = 'done'
RETURNING true
"""


def rebuild(conn: Connection, tenant_id: str, shard: CachedShard) -> bool:
    """Have a stored shard built again; False where it no longer has this manifest.

    The pause is for the caller to delete the damaged objects: a builder adopts what it finds.
    """
    facts = (tenant_id, shard.digest, shard.manifest_sha256)
    if conn.execute(_REBUILD, facts).fetchone() is None:
        return False
    notify(conn, WORK)
    return True


_LOCK: Final = """
SELECT attempts FROM cache_shards
WHERE tenant_id = %s AND digest = %s AND status = 'pending' FOR UPDATE
"""
_FAILED: Final = """
UPDATE cache_shards SET status = 'failed', attempts = attempts + 1, error = %s, ring_after = NULL
WHERE tenant_id = %s AND digest = %s
"""
_AGAIN: Final = """
UPDATE cache_shards SET attempts = attempts + 1, error = %s,
    ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND digest = %s
"""


def failed(conn: Connection, tenant_id: str, digest: str, failure: Failure) -> None:
    """Record a failed build: try it again later if it is retryable, else fail its runs."""
    row = conn.execute(_LOCK, (tenant_id, digest)).fetchone()
    if row is None:
        return  # another builder stored it, or it has failed for good
    attempts, error = row[0], Jsonb(failure_as_json(failure))
    if failure.retryable and attempts + 1 < MAX_TRIES:
        delay = backoff(attempts, first=timedelta(seconds=2), limit=timedelta(minutes=5))
        conn.execute(_AGAIN, (error, seconds(delay), tenant_id, digest))
    else:
        conn.execute(_FAILED, (error, tenant_id, digest))
    notify(conn, WORK)


_LATER: Final = """
UPDATE cache_shards SET ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND digest = %s AND status = 'pending'
"""


def retry_later(conn: Connection, tenant_id: str, digest: str, *, after: timedelta) -> None:
    """Postpone the build without counting a failed try, because a server cannot be reached."""
    conn.execute(_LATER, (seconds(after), tenant_id, digest))
