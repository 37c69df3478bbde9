"""Cache shards: files of several cache entries, built by any builder, kept once ``done``."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.failures import backoff, infra_failure
from services.domain.ledger import CachedShard
from services.domain.placement import BUILDER_LEASE
from services.store import cache_entries
from services.store.database import WORK, Connection, columns_of, notify, seconds
from trainer_core.process.failure import Failure, failure_as_json

MAX_TRIES: Final = 8
"""Failed builds of a shard after which its runs fail."""


_NAMES_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """A shard that is to be built."""

    tenant_id: str
    digest: str
    kind: str
    """``latents``, ``text`` or ``masks``."""
    spec: dict[str, Any]
    """``trainer_core.data.shards.ShardSpec`` as JSON."""
    base_model: str
    """Name on the operator's list of base models."""
    attempts: int
    """Builds so far, with the one under way."""

    @property
    def shown(self) -> str:
        """What the shard holds, for a message: the first files of pictures, or captions."""
        entries = self.spec.get("entries", [])
        names = [str(entry["path"]) for entry in entries if "path" in entry]
        if not names:
            return f"{len(entries)} captions"
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return ", ".join(names[:_NAMES_SHOWN]) + more


# The try is counted before the work, because a shard may end the builder's process.
_TAKE: Final = SQL("""
UPDATE cache_shards SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s),
    offered_until = NULL, attempts = attempts + 1
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s AND status = 'pending'
    AND (lease_until IS NULL OR lease_until <= clock_timestamp())
RETURNING {columns}
""").format(columns=columns_of(ShardWork))


# Whoever starts to need it has locked its row until the commit, so this sees it.
_IS_NEEDED: Final = """
SELECT EXISTS (
    SELECT FROM run_shards JOIN runs USING (tenant_id, run_id)
    WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s AND finished_at IS NULL)
"""
_LET_GO: Final = """
UPDATE cache_shards SET lease_until = NULL, ring_after = NULL, attempts = attempts - 1
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s
"""


def take(conn: Connection, tenant_id: str, digest: str) -> ShardWork | None:
    """Take the shard if it is not built yet and no other builder builds it.

    None also where no run needs it that is not over, such as after a process died that took it
    away: it is not due again until a run needs it.

    Where the lease runs out meanwhile, two builders may build it: the object store keeps the first
    manifest, and both report that one.
    """
    facts = {"tenant_id": tenant_id, "digest": digest, "lease_s": seconds(BUILDER_LEASE)}
    with conn.cursor(row_factory=class_row(ShardWork)) as cursor:
        work = cursor.execute(_TAKE, facts).fetchone()
    if work is not None and conn.execute(_IS_NEEDED, facts).fetchone() != (True,):
        conn.execute(_LET_GO, facts)
        return None
    if work is not None and work.attempts > MAX_TRIES:
        failure = infra_failure("builder_died", f"Building the cache shard of {work.shown} failed.")
        failed(conn, work, failure)
        return None
    return work


_RENEW: Final = """
UPDATE cache_shards SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s AND status = 'pending'
    AND lease_until > clock_timestamp()
"""


def renew(conn: Connection, work: ShardWork) -> None:
    """Extend the lease while the shard is built; no change where it has run out."""
    facts = {"tenant_id": work.tenant_id, "digest": work.digest, "lease_s": seconds(BUILDER_LEASE)}
    conn.execute(_RENEW, facts)


_DONE: Final = """
UPDATE cache_shards SET status = 'done', manifest_sha256 = %s, size_bytes = %s, error = NULL,
    ring_after = NULL, offered_until = NULL, lease_until = NULL, done_at = clock_timestamp()
WHERE tenant_id = %s AND digest = %s AND status <> 'done'
RETURNING true
"""


_EXISTS: Final = """
SELECT EXISTS (SELECT FROM cache_shards WHERE tenant_id = %s AND digest = %s)
"""


def done(conn: Connection, tenant_id: str, digest: str, shard: CachedShard) -> bool:
    """Record that the shard is stored with this manifest. Idempotent.

    False where there is no row of it any more: it was taken away meanwhile, and nobody else knows
    of its objects.
    """
    facts = (shard.manifest_sha256, shard.size_bytes, tenant_id, digest)
    # The shard before its entries, as everywhere: they could deadlock otherwise.
    is_new = conn.execute(_DONE, facts).fetchone() is not None
    cache_entries.set_sizes(conn, tenant_id, digest, shard.entries)
    if is_new:
        notify(conn, WORK)
    return is_new or conn.execute(_EXISTS, (tenant_id, digest)).fetchone() == (True,)


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


_FAILED: Final = """
UPDATE cache_shards SET status = 'failed', error = %s,
    ring_after = NULL, offered_until = NULL, lease_until = NULL
WHERE tenant_id = %s AND digest = %s AND status = 'pending'
"""
_AGAIN: Final = """
UPDATE cache_shards SET error = %s, lease_until = NULL,
    ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND digest = %s AND status = 'pending'
"""


def failed(conn: Connection, work: ShardWork, failure: Failure) -> None:
    """Record a failed build: try it again later if it is retryable, else fail its runs.

    No change where another builder stored it, or where it has failed for good.
    """
    error = Jsonb(failure_as_json(failure))
    if failure.retryable and work.attempts < MAX_TRIES:
        delay = backoff(work.attempts - 1, first=timedelta(seconds=2), limit=timedelta(minutes=5))
        conn.execute(_AGAIN, (error, seconds(delay), work.tenant_id, work.digest))
    else:
        conn.execute(_FAILED, (error, work.tenant_id, work.digest))
    notify(conn, WORK)


_LOCK: Final = """
SELECT FROM cache_shards WHERE tenant_id = %s AND digest = %s AND status = 'pending' FOR UPDATE
"""
_SET_SPEC: Final = """
UPDATE cache_shards SET spec = %s WHERE tenant_id = %s AND digest = %s
"""


def leave_out(
    conn: Connection, work: ShardWork, entries: Collection[str], spec: dict[str, Any]
) -> bool:
    """The shard is built without these entries from now on; a run that needs them gets new ones.

    Its row is locked, so no further run is linked to it until the commit. False where another
    builder has stored it, or it has failed; then nothing is changed.

    Args:
        entries: digests.
        spec: the shard's spec without them.
    """
    if conn.execute(_LOCK, (work.tenant_id, work.digest)).fetchone() is None:
        return False
    cache_entries.forget(conn, work.tenant_id, work.digest, entries)
    conn.execute(_SET_SPEC, (Jsonb(spec), work.tenant_id, work.digest))
    return True


_LATER: Final = """
UPDATE cache_shards SET attempts = greatest(0, attempts - 1), lease_until = NULL,
    ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND digest = %s AND status = 'pending'
"""


def retry_later(conn: Connection, work: ShardWork, *, after: timedelta) -> None:
    """Postpone the build without counting a failed try, because a server cannot be reached."""
    conn.execute(_LATER, (seconds(after), work.tenant_id, work.digest))
