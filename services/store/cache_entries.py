"""Cache entries: which shard has which encoded picture or caption of a tenant.

An entry is encoded once for all runs of its tenant. A run that needs entries is linked to their
shards; those that no shard has go into new shards.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from services.store.database import Connection, DatabaseBusyError
from services.store.run_rows import Run

_ROWS_A_STATEMENT: Final = 5000
_SHARDS_A_STATEMENT: Final = 200
"""A shard's spec may be hundreds of kilobytes."""
_TRIES: Final = 5
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededShard:
    """A cache shard that is to be built."""

    digest: str
    kind: str
    spec: str
    """``trainer_core.data.shards.ShardSpec`` as JSON text."""
    entries: tuple[str, ...]
    """Digests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededEntries:
    """The cache entries that a run needs."""

    digests: Sequence[str]
    shards_of: Callable[[Collection[str]], Sequence[NeededShard]]
    """New shards for those of the entries that no shard has."""


def need(conn: Connection, run: Run, needed: NeededEntries) -> None:
    """Link the run to shards with all its entries; those that no shard has go into new ones.

    So do entries of a shard that failed: what made it fail may be a picture that this run lacks.

    Raises DatabaseBusyError where other runs that need the same entries were admitted each time.
    """
    conn.execute("DELETE FROM run_shards WHERE run_id = %s", (run.run_id,))  # of an older index
    digests = sorted(set(needed.digests))
    for _ in range(_TRIES):
        locked = _lock_shards(conn, run, _shards_with(conn, run.tenant_id, digests).values())
        # Read again: meanwhile an entry may have been left out of its shard.
        placed = _shards_with(conn, run.tenant_id, digests)
        found = {digest: shard for digest, shard in placed.items() if locked.get(shard) is True}
        failed = [digest for digest, shard in placed.items() if locked.get(shard) is False]
        missing = [digest for digest in digests if digest not in found]
        shards = sorted(needed.shards_of(frozenset(missing)), key=lambda shard: shard.digest)
        try:
            with conn.transaction():  # undone where another run was quicker
                for some in _batches(failed):
                    conn.execute(_TAKE_OUT, (run.tenant_id, list(some)))
                _insert(conn, run, shards)
        except _TakenError:
            continue
        _link(conn, run, {*found.values(), *(shard.digest for shard in shards)})
        return
    raise DatabaseBusyError("cache entries are claimed by other runs at the same time")


class _TakenError(Exception):
    """Another transaction has inserted one of the entries meanwhile."""


_SHARDS_WITH: Final = """
SELECT digest, shard FROM cache_entries WHERE tenant_id = %s AND digest = ANY(%s)
"""


def _shards_with(conn: Connection, tenant_id: str, digests: Sequence[str]) -> dict[str, str]:
    """Digest of each entry that a shard has → the shard."""
    found: dict[str, str] = {}
    for some in _batches(digests):
        found.update(conn.execute(_SHARDS_WITH, (tenant_id, list(some))).fetchall())
    return found


# Locked in the order of digests, so that two runs with the same shards cannot deadlock. Who takes a
# shard away locks it, too.
_LOCK: Final = """
SELECT digest, status <> 'failed' FROM cache_shards WHERE tenant_id = %s AND digest = ANY(%s)
ORDER BY digest FOR UPDATE
"""
_TAKE_OUT: Final = """
DELETE FROM cache_entries USING cache_shards
WHERE cache_entries.tenant_id = %s AND cache_entries.digest = ANY(%s)
    AND cache_shards.tenant_id = cache_entries.tenant_id
    AND cache_shards.digest = cache_entries.shard AND status = 'failed'
"""


def _lock_shards(conn: Connection, run: Run, shards: Iterable[str]) -> dict[str, bool]:
    """Those of the shards that still exist → whether they are built, or will be.

    They are locked, and stay until the commit.
    """
    existing: dict[str, bool] = {}
    for some in _batches(sorted(set(shards))):
        existing.update(conn.execute(_LOCK, (run.tenant_id, list(some))).fetchall())
    return existing


_INSERT_SHARDS: Final = """
INSERT INTO cache_shards (tenant_id, digest, kind, spec, base_model, ring_after)
SELECT %(tenant_id)s, digest, kind, spec::jsonb, %(base_model)s, clock_timestamp()
FROM unnest(%(digests)s::text[], %(kinds)s::text[], %(specs)s::text[]) AS new (digest, kind, spec)
ORDER BY digest
ON CONFLICT (tenant_id, digest) DO UPDATE SET status = 'pending', attempts = 0, error = NULL,
    spec = EXCLUDED.spec, ring_after = clock_timestamp(), created_at = clock_timestamp()
    WHERE cache_shards.status = 'failed'
"""
_INSERT_ENTRIES: Final = """
INSERT INTO cache_entries (tenant_id, digest, shard)
SELECT %s, digest, shard FROM unnest(%s::text[], %s::text[]) AS new (digest, shard) ORDER BY digest
ON CONFLICT DO NOTHING
"""


def _insert(conn: Connection, run: Run, shards: Sequence[NeededShard]) -> None:
    """Insert new shards with their entries; raises _TakenError."""
    for some in _batches(shards, _SHARDS_A_STATEMENT):
        facts = {
            "tenant_id": run.tenant_id,
            "base_model": run.base_model,
            "digests": [shard.digest for shard in some],
            "kinds": [shard.kind for shard in some],
            "specs": [shard.spec for shard in some],
        }
        conn.execute(_INSERT_SHARDS, facts)
    rows = sorted((digest, shard.digest) for shard in shards for digest in shard.entries)
    for some_rows in _batches(rows):
        digests, names = zip(*some_rows, strict=True)
        inserted = conn.execute(_INSERT_ENTRIES, (run.tenant_id, list(digests), list(names)))
        if inserted.rowcount != len(some_rows):
            raise _TakenError


_LINK: Final = """
INSERT INTO run_shards (run_id, tenant_id, digest)
SELECT %s, %s, unnest(%s::text[]) ON CONFLICT DO NOTHING
"""


# Nobody needed it any more, so that it was not built; see ``shards.take``.
_RING: Final = """
UPDATE cache_shards SET ring_after = clock_timestamp()
WHERE tenant_id = %s AND digest = ANY(%s) AND status = 'pending' AND ring_after IS NULL
"""


def _link(conn: Connection, run: Run, shards: Collection[str]) -> None:
    for some in _batches(sorted(shards)):
        conn.execute(_LINK, (run.run_id, run.tenant_id, list(some)))
        conn.execute(_RING, (run.tenant_id, list(some)))


_SET_SIZES: Final = """
UPDATE cache_entries SET size_bytes = new.size_bytes
FROM unnest(%s::text[], %s::bigint[]) AS new (digest, size_bytes)
WHERE tenant_id = %s AND cache_entries.digest = new.digest AND shard = %s
"""


def set_sizes(conn: Connection, tenant_id: str, shard: str, sizes: Mapping[str, int]) -> None:
    """Note how large the entries of a shard are, in bytes; ``sizes``: by digest."""
    conn.execute(_SET_SIZES, (list(sizes), list(sizes.values()), tenant_id, shard))


_FORGET: Final = """
DELETE FROM cache_entries WHERE tenant_id = %s AND shard = %s AND digest = ANY(%s)
"""


def forget(conn: Connection, tenant_id: str, shard: str, digests: Collection[str]) -> None:
    """Delete entries of a shard; the caller has locked its row."""
    conn.execute(_FORGET, (tenant_id, shard, list(digests)))


_STORED: Final = """
SELECT cache_entries.digest, cache_entries.shard, cache_shards.status = 'done'
FROM cache_entries JOIN cache_shards
    ON cache_shards.tenant_id = cache_entries.tenant_id AND cache_shards.digest = shard
WHERE cache_entries.tenant_id = %s AND cache_entries.digest = ANY(%s)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownEntry:
    """An entry that a shard has, or will have."""

    shard: str
    is_stored: bool


def known(conn: Connection, tenant_id: str, digests: Collection[str]) -> dict[str, KnownEntry]:
    """Those of the entries that the tenant has in a shard, by digest."""
    found: dict[str, KnownEntry] = {}
    for some in _batches(list(digests)):
        for digest, shard, is_stored in conn.execute(_STORED, (tenant_id, list(some))):
            found[digest] = KnownEntry(shard=shard, is_stored=is_stored)
    return found


def _batches(items: Sequence[_Item], size: int = _ROWS_A_STATEMENT) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
