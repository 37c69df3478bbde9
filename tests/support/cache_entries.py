"""Cache entries in a database: runs that need them, shards that have them."""

from collections import Counter
from collections.abc import Iterable

from services.domain.ledger import CachedShard
from services.store import admission, shards
from services.store.cache_entries import NeededEntries
from tests.support.runs import INDEX, TenantDatabase
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.shards import ShardSpec

PLAN = import_small(backends=[{"id": "photos", "caption_strategy": "textfile"}]).plan


def index_of(pictures: Iterable[int], *, folder: str = "") -> DataIndex:
    """The data of a run with these pictures, all with one caption."""
    items = [
        FileItem(
            backend="photos",
            path=f"{folder}{number}.png",
            sha256=f"{number:064x}",
            width_px=256,
            height_px=256,
            captions=("a photo",),
        )
        for number in pictures
    ]
    return build_index(PLAN, items, TINY_CONFIG)


def digests_of(index: DataIndex) -> set[str]:
    return {entry.digest for entry in index.entries}


def admit(db: TenantDatabase, needed: NeededEntries, run_id: str | None = None) -> str:
    """A run with this data; its id."""
    run_id = run_id or db.queued().run_id
    with db.database.transaction() as conn:
        assert admission.admit(conn, run_id, INDEX, needed, [])
    return run_id


def packed(db: TenantDatabase) -> dict[str, set[str]]:
    """The entries of each shard of the tenant."""
    with db.database.transaction() as conn:
        rows = conn.execute(
            "SELECT shard, array_agg(digest) FROM cache_entries WHERE tenant_id = %s GROUP BY 1",
            (db.tenant_id,),
        ).fetchall()
        (shard_rows,) = conn.execute(
            "SELECT array_agg(digest) FROM cache_shards WHERE tenant_id = %s", (db.tenant_id,)
        ).fetchall()
    assert {shard for shard, _ in rows} == set(shard_rows[0] or ()), "each shard has entries"
    return {shard: set(entries) for shard, entries in rows}


def linked(db: TenantDatabase, run_id: str) -> set[str]:
    """Entries of the shards that the run needs."""
    of_shard = packed(db)
    return {entry for shard in db.shards_of(run_id) for entry in of_shard[shard]}


def to_encode(db: TenantDatabase) -> Counter[str]:
    """How often each entry is in the spec of a shard."""
    with db.database.transaction() as conn:
        rows = conn.execute(
            "SELECT spec FROM cache_shards WHERE tenant_id = %s", (db.tenant_id,)
        ).fetchall()
    found: Counter[str] = Counter()
    for (spec,) in rows:
        found.update(ShardSpec.model_validate(spec).digests())
    return found


def build_all(db: TenantDatabase, *, entry_bytes: int = 7) -> None:
    for shard, entries in packed(db).items():
        stored = CachedShard(
            digest=shard,
            kind="latents",
            manifest_sha256="e" * 64,
            size_bytes=100,
            entries=dict.fromkeys(entries, entry_bytes),
        )
        with db.database.transaction() as conn:
            shards.done(conn, db.tenant_id, shard, stored)
