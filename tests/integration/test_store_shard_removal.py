"""Shards that are taken away, while a run starts to need them or afterwards."""

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

from services.cache_builder.indexing.deciding import needed_entries
from services.store import admission, shard_removal, shards
from services.store.shard_removal import Refused, Rule, Shard, Taken
from tests.support.cache_entries import (
    admit,
    build_all,
    digests_of,
    index_of,
    linked,
    packed,
    to_encode,
)
from tests.support.runs import INDEX, TenantDatabase
from trainer_core.data.index import DataIndex


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
