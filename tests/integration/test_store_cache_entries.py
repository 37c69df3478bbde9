"""Cache entries in PostgreSQL: encoded once for all runs of a tenant, and for no other tenant."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from services.cache_builder.indexing.deciding import needed_entries
from services.domain.ledger import CachedShard
from services.store import admission, cache_entries, shard_removal, shards
from services.store.cache_entries import NeededEntries, NeededShard
from services.store.database import DatabaseBusyError
from services.store.shard_removal import Refused, Rule, Shard, Taken
from tests.support.runs import INDEX, LEASE, TenantDatabase, failure
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.shards import ShardSpec

PLAN = import_small(backends=[{"id": "photos", "caption_strategy": "textfile"}]).plan
Needs = Callable[[Collection[str]], Sequence[NeededShard]]


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


def at_once(needed: NeededEntries, barrier: threading.Barrier) -> NeededEntries:
    """The same; the first look at what is missing waits until others have looked, too."""
    is_first = [True]

    def shards_of(missing: Collection[str]) -> Sequence[NeededShard]:
        if is_first.pop() if is_first else False:
            barrier.wait(10)
        return needed.shards_of(missing)

    return replace(needed, shards_of=shards_of)


def test_runs_that_are_admitted_at_the_same_moment_encode_each_entry_once(
    tenant_db: TenantDatabase,
) -> None:
    indexes = [index_of(range(40)), index_of(range(20, 60)), index_of(range(40))]
    runs = [tenant_db.queued().run_id for _ in indexes]
    barrier = threading.Barrier(len(indexes))
    needs = [at_once(needed_entries(index), barrier) for index in indexes]

    with ThreadPoolExecutor(len(indexes)) as pool:
        list(pool.map(admit, [tenant_db] * len(indexes), needs, runs))

    assert to_encode(tenant_db) == Counter(digests_of(index_of(range(60))))
    for run_id, index in zip(runs, indexes, strict=True):
        assert linked(tenant_db, run_id) >= digests_of(index)
        assert tenant_db.run(run_id).stage == "caching"


def test_any_number_of_admissions_at_once_leaves_each_entry_in_one_shard(
    tenant_db: TenantDatabase,
) -> None:
    """Some are refused, as other admissions keep them waiting in a circle, and are repeated."""
    choices = random.Random(7)
    indexes = [index_of(choices.sample(range(30), 12)) for _ in range(12)]
    runs = [tenant_db.queued().run_id for _ in indexes]

    def admit_in_the_end(run_id: str, index: DataIndex) -> None:
        while True:
            try:
                admit(tenant_db, needed_entries(index), run_id)
            except DatabaseBusyError:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(admit_in_the_end, runs, indexes))

    wanted = set().union(*map(digests_of, indexes))
    assert to_encode(tenant_db) == Counter(wanted)
    for run_id, index in zip(runs, indexes, strict=True):
        assert linked(tenant_db, run_id) >= digests_of(index)


@pytest.mark.parametrize(
    ("changed", "num_new"),
    [
        pytest.param(index_of(range(11)), 1, id="one more"),
        pytest.param(index_of(range(9)), 0, id="one fewer"),
        pytest.param(index_of(range(10), folder="renamed/"), 0, id="all renamed"),
        pytest.param(index_of(reversed(range(10))), 0, id="in another order"),
        pytest.param(index_of(range(1, 11)), 1, id="one replaced"),
    ],
)
def test_changed_data_is_encoded_where_it_is_new(
    tenant_db: TenantDatabase, changed: DataIndex, num_new: int
) -> None:
    admit(tenant_db, needed_entries(index_of(range(10))))
    build_all(tenant_db)
    before = to_encode(tenant_db)

    run_id = admit(tenant_db, needed_entries(changed))

    new = to_encode(tenant_db) - before
    assert new.total() == num_new
    assert set(new) <= digests_of(changed)
    assert linked(tenant_db, run_id) >= digests_of(changed)
    assert tenant_db.run(run_id).stage == ("caching" if num_new else "capacity")


def test_a_tenant_neither_sees_nor_uses_the_entries_of_another(tenant_db: TenantDatabase) -> None:
    other = tenant_db.neighbour()
    index = index_of(range(5))
    admit(tenant_db, needed_entries(index))
    build_all(tenant_db)

    with other.database.transaction() as conn:
        assert cache_entries.known(conn, other.tenant_id, digests_of(index)) == {}
    run_id = admit(other, needed_entries(index))

    assert other.run(run_id).stage == "caching", "the others' shards are built"
    assert to_encode(other) == Counter(digests_of(index))
    with other.database.transaction() as conn:
        cache_entries.set_sizes(
            conn, other.tenant_id, next(iter(packed(other))), dict.fromkeys(digests_of(index), 1)
        )
        own = cache_entries.known(conn, other.tenant_id, digests_of(index)).values()
        (sizes,) = conn.execute(
            "SELECT array_agg(DISTINCT size_bytes) FROM cache_entries WHERE tenant_id = %s",
            (tenant_db.tenant_id,),
        ).fetchall()
    assert {entry.is_stored for entry in own} == {False}
    assert sizes[0] == [7]


def test_what_is_known_follows_the_shards(tenant_db: TenantDatabase) -> None:
    index = index_of(range(3))
    more = index_of(range(4))
    admit(tenant_db, needed_entries(index))

    def known() -> dict[str, bool]:
        with tenant_db.database.transaction() as conn:
            found = cache_entries.known(conn, tenant_db.tenant_id, digests_of(more))
        return {digest: entry.is_stored for digest, entry in found.items()}

    assert known() == dict.fromkeys(digests_of(index), False)
    build_all(tenant_db)
    assert known() == dict.fromkeys(digests_of(index), True)


def test_a_claim_names_the_entries_and_their_sizes(tenant_db: TenantDatabase) -> None:
    index = index_of(range(3))
    run_id = admit(tenant_db, needed_entries(index))
    build_all(tenant_db, entry_bytes=9)
    with tenant_db.database.transaction() as conn:
        admission.end_caching(conn, run_id)

    claim = tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE)

    assert claim is not None
    assert {shard.digest: set(shard.entries) for shard in claim.shards} == packed(tenant_db)
    assert {size for shard in claim.shards for size in shard.entries.values()} == {9}


def fail_all(db: TenantDatabase, run_id: str) -> None:
    """All shards of the run fail, and so does the run."""
    with db.database.transaction() as conn:
        for digest in db.shards_of(run_id):
            work = shards.take(conn, db.tenant_id, digest)
            assert work is not None
            shards.failed(conn, work, failure(retryable=False))
    with db.database.transaction() as conn:
        admission.end_caching(conn, run_id)
    assert db.run(run_id).status == "failed"


def test_a_shard_that_failed_is_tried_again_for_the_next_run(tenant_db: TenantDatabase) -> None:
    first = admit(tenant_db, needed_entries(index_of(range(3))))
    fail_all(tenant_db, first)
    before = packed(tenant_db)

    second = admit(tenant_db, needed_entries(index_of(range(3))))

    assert packed(tenant_db) == before
    assert tenant_db.shards_of(second) == dict.fromkeys(before, "pending")
    with tenant_db.database.transaction() as conn:
        tries = [shards.take(conn, tenant_db.tenant_id, digest) for digest in before]
    assert [work and work.attempts for work in tries] == [1] * len(before)


def test_a_picture_that_cannot_be_encoded_fails_no_run_without_it(
    tenant_db: TenantDatabase,
) -> None:
    """Picture 2 makes its shard fail; a run with the others needs nothing that names it."""
    fail_all(tenant_db, admit(tenant_db, needed_entries(index_of(range(3)))))
    good = index_of(range(2))

    second = admit(tenant_db, needed_entries(good))

    assert set(tenant_db.shards_of(second).values()) == {"pending"}
    assert linked(tenant_db, second) == digests_of(good)
    with tenant_db.database.transaction() as conn:
        for digest in tenant_db.shards_of(second):
            work = shards.take(conn, tenant_db.tenant_id, digest)
            assert work is not None
            assert set(ShardSpec.model_validate(work.spec).digests()) <= digests_of(good)


def test_a_run_that_is_admitted_again_forgets_the_shards_of_its_older_index(
    tenant_db: TenantDatabase,
) -> None:
    run_id = admit(tenant_db, needed_entries(index_of(range(3))))
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = 'queued', stage = 'admission'")
    changed = index_of(range(10, 13))

    admit(tenant_db, needed_entries(changed), run_id)

    assert linked(tenant_db, run_id) == digests_of(changed)


def taking(db: TenantDatabase, digest: str) -> Taken | Refused:
    """Take the shard away, as of runs that are over for long."""
    with db.database.transaction() as conn:
        shard = Shard(tenant_id=db.tenant_id, digest=digest)
        return shard_removal.take(conn, shard, Rule.AGE, 60.0, lease=timedelta(minutes=1))


def dropping(db: TenantDatabase, taken: Taken) -> bool:
    with db.database.transaction() as conn:
        return shard_removal.drop(conn, taken, Rule.AGE, 60.0)


def unneeded(db: TenantDatabase, index: DataIndex) -> set[str]:
    """Stored shards with these entries; their run is over for long."""
    run_id = admit(db, needed_entries(index))
    build_all(db)
    with db.database.transaction() as conn:
        conn.execute(
            "UPDATE runs SET status = 'succeeded', stage = NULL,"
            " finished_at = clock_timestamp() - interval '1 day' WHERE run_id = %s",
            (run_id,),
        )
    return set(packed(db))


def is_waiting(future: Future[Taken | Refused] | Future[str]) -> bool:
    """Whether it is still under way a moment later."""
    time.sleep(0.3)
    return not future.done()


def test_a_shard_stays_where_a_run_starts_to_need_it_first(tenant_db: TenantDatabase) -> None:
    index = index_of(range(3))
    old = unneeded(tenant_db, index)
    run_id = tenant_db.queued().run_id
    with ThreadPoolExecutor(1) as pool:
        with tenant_db.database.transaction() as conn:
            assert admission.admit(conn, run_id, INDEX, needed_entries(index), [])
            future = pool.submit(taking, tenant_db, next(iter(old)))
            assert is_waiting(future), "until it is certain that the run is admitted"
        assert future.result(10) is Refused.NEEDED
    assert tenant_db.shards_of(run_id) == dict.fromkeys(old, "done")
    assert tenant_db.run(run_id).stage == "capacity"


def test_a_shard_that_is_being_taken_away_is_built_again_for_the_run(
    tenant_db: TenantDatabase,
) -> None:
    index = index_of(range(3))
    old = unneeded(tenant_db, index)
    taken = [taking(tenant_db, digest) for digest in old]

    run_id = admit(tenant_db, needed_entries(index))

    assert tenant_db.shards_of(run_id) == dict.fromkeys(old, "pending")
    for each in taken:
        assert isinstance(each, Taken)
        assert shards_taken(tenant_db, each.shard.digest) is False, "its objects are deleted now"
        assert not dropping(tenant_db, each)
        assert shards_taken(tenant_db, each.shard.digest) is True
    assert linked(tenant_db, run_id) == digests_of(index)


def shards_taken(db: TenantDatabase, digest: str) -> bool:
    """Whether a builder gets the shard."""
    with db.database.transaction() as conn:
        return shards.take(conn, db.tenant_id, digest) is not None


def test_a_shard_that_was_taken_away_halfway_is_built_for_nobody_and_for_the_next_run(
    tenant_db: TenantDatabase,
) -> None:
    index = index_of(range(3))
    old = unneeded(tenant_db, index)
    for digest in old:
        assert isinstance(taking(tenant_db, digest), Taken)
    # The process died when the objects were deleted, and the lease runs out.
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET lease_until = NULL, ring_after = clock_timestamp()")
    assert not any(shards_taken(tenant_db, digest) for digest in old)
    assert not any(shards_taken(tenant_db, digest) for digest in old), "nor later"
    tenant_db.builder()

    run_id = admit(tenant_db, needed_entries(index))

    assert tenant_db.shards_of(run_id) == dict.fromkeys(old, "pending")
    with tenant_db.database.transaction() as conn:
        due = "SELECT count(*) FROM cache_shards WHERE ring_after <= clock_timestamp()"
        assert conn.execute(due).fetchone() == (len(old),)
    assert all(shards_taken(tenant_db, digest) for digest in old)


def test_the_next_sweep_ends_what_one_before_began(tenant_db: TenantDatabase) -> None:
    for digest in (old := unneeded(tenant_db, index_of(range(3)))):
        assert isinstance(taking(tenant_db, digest), Taken)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET lease_until = NULL")
    for digest in old:
        again = taking(tenant_db, digest)
        assert isinstance(again, Taken)
        assert not again.was_done
        assert dropping(tenant_db, again)
    assert packed(tenant_db) == {}


def test_entries_of_a_shard_that_was_just_taken_away_go_into_a_new_one(
    tenant_db: TenantDatabase,
) -> None:
    index = index_of(range(3))
    run_id = tenant_db.queued().run_id
    taken = taking(tenant_db, next(iter(unneeded(tenant_db, index))))
    assert isinstance(taken, Taken)
    with ThreadPoolExecutor(1) as pool:
        with tenant_db.database.transaction() as conn:
            assert shard_removal.drop(conn, taken, Rule.AGE, 60.0)
            future = pool.submit(admit, tenant_db, needed_entries(index), run_id)
            assert is_waiting(future), "for the end of the deletion"
        future.result(10)

    assert to_encode(tenant_db) == Counter(digests_of(index))
    assert linked(tenant_db, run_id) == digests_of(index)
    assert tenant_db.shards_of(run_id)[taken.shard.digest] == "pending"


def test_a_run_with_20000_entries_is_admitted_in_seconds(tenant_db: TenantDatabase) -> None:
    per_shard = 50
    spec = json.dumps({"entries": [{"path": f"{number}.png" * 20} for number in range(per_shard)]})
    digests = [f"{number:064x}" for number in range(20_000)]

    def shards_of(missing: Collection[str]) -> Sequence[NeededShard]:
        assert len(missing) in (0, len(digests))
        return [
            NeededShard(digest=each[0], kind="latents", spec=spec, entries=tuple(each))
            for each in batched(sorted(missing), per_shard)
        ]

    needed = NeededEntries(digests=digests, shards_of=shards_of)
    first, second = tenant_db.queued().run_id, tenant_db.queued().run_id
    started_s = time.monotonic()
    admit(tenant_db, needed, first)
    admit(tenant_db, needed, second)

    assert time.monotonic() - started_s < 20, "it takes about 1 s on two free cores"
    assert len(tenant_db.shards_of(first)) == 20_000 / per_shard
    assert tenant_db.shards_of(second) == tenant_db.shards_of(first)


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
