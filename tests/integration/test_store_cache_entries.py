"""Cache entries in PostgreSQL: encoded once for all runs of a tenant, and for no other tenant."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from services.cache_builder.indexing.deciding import needed_entries
from services.store import admission, cache_entries, shards
from services.store.cache_entries import NeededEntries, NeededShard
from services.store.database import DatabaseBusyError
from tests.support.cache_entries import (
    admit,
    build_all,
    digests_of,
    index_of,
    linked,
    packed,
    to_encode,
)
from tests.support.runs import LEASE, TenantDatabase, failure
from trainer_core.data.index import DataIndex
from trainer_core.data.shards import ShardSpec


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
