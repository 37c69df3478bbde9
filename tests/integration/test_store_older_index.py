"""Runs whose data an earlier version has indexed are indexed again; nobody trains on that index."""

from datetime import timedelta

import pytest

from services.domain.ledger import Outcome
from services.store import admission, index_tasks
from tests.support.runs import INDEX, LEASE, TenantDatabase, needed, stored_shard

OLDER = [pytest.param("NULL", id="no version"), pytest.param("1", id="version 1")]


def as_of_older(db: TenantDatabase, version: str = "NULL") -> None:
    """As if the version before had admitted all runs: with one shard, and no entries."""
    with db.database.transaction() as conn:
        conn.execute(
            "UPDATE run_documents SET index_version = " + version + ","
            """ data_index = '{"version": 1}' WHERE data_index IS NOT NULL"""
        )
        conn.execute("DELETE FROM cache_entries")


def readmit(db: TenantDatabase) -> int:
    with db.database.transaction() as conn:
        return admission.readmit_older(conn, 10)


def place(db: TenantDatabase, run_id: str) -> tuple[str, str | None]:
    run = db.run(run_id)
    return run.status, run.stage


@pytest.mark.parametrize("version", OLDER)
def test_waiting_runs_are_indexed_again(tenant_db: TenantDatabase, version: str) -> None:
    caching = tenant_db.caching().run_id
    other = tenant_db.neighbour()
    ready = other.claimable().run_id
    as_of_older(tenant_db, version)

    assert readmit(tenant_db) == 2
    assert place(tenant_db, caching) == place(other, ready) == ("queued", "admission")
    assert readmit(tenant_db) == 0
    with tenant_db.database.transaction() as conn:
        tenant_db.builder()
        offers = index_tasks.take_offers(
            conn, offer=timedelta(minutes=1), silence=timedelta(minutes=1)
        )
    assert {offer.run_id for offer in offers} == {caching, ready}

    with tenant_db.database.transaction() as conn:
        assert admission.admit(conn, caching, INDEX, needed(5), [])
    assert readmit(tenant_db) == 0
    assert tenant_db.shards_of(caching) == {stored_shard(5).digest: "pending"}


def test_nobody_gets_such_a_run_before_it_is_indexed_again(tenant_db: TenantDatabase) -> None:
    ready, caching = tenant_db.claimable().run_id, tenant_db.caching().run_id
    tenant_db.build_shard()
    as_of_older(tenant_db)

    with tenant_db.database.transaction() as conn:
        assert admission.runs_cached(conn, 10) == []
    assert tenant_db.ledger.claim(ready, worker_id=tenant_db.worker(), lease=LEASE) is None
    assert readmit(tenant_db) == 2
    assert place(tenant_db, caching) == ("queued", "admission")


def test_a_held_run_ends_its_attempt_first(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    as_of_older(tenant_db)

    assert readmit(tenant_db) == 0
    assert place(tenant_db, claim.run_id)[0] == "running"

    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    assert readmit(tenant_db) == 1
    assert place(tenant_db, claim.run_id) == ("queued", "admission")


@pytest.mark.parametrize("end", ["paused", "succeeded"])
def test_other_runs_are_left_alone(tenant_db: TenantDatabase, end: str) -> None:
    run_id = tenant_db.claimable().run_id
    waiting = tenant_db.queued().run_id
    as_of_older(tenant_db)
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET status = %s, stage = NULL WHERE run_id = %s", (end, run_id))

    assert readmit(tenant_db) == 0
    assert place(tenant_db, run_id) == (end, None)
    assert place(tenant_db, waiting) == ("queued", "admission")


def test_what_was_told_of_the_data_is_not_told_twice(tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.queued().run_id
    for told in (["a.png is small."], ["a.png is small.", "b.png is small."]):
        with tenant_db.database.transaction() as conn:
            assert admission.admit(conn, run_id, INDEX, needed(0), told)
        as_of_older(tenant_db)
        assert readmit(tenant_db) == 1

    assert tenant_db.run(run_id).warnings == ["a.png is small.", "b.png is small."]


def test_with_builders_of_before_alone_a_run_waits_longer_and_ends(
    tenant_db: TenantDatabase,
) -> None:
    run_id = tenant_db.caching().run_id
    for times in range(1, admission.MAX_OLDER_INDEXES + 2):
        assert place(tenant_db, run_id) == ("running", "caching"), times
        as_of_older(tenant_db)
        assert readmit(tenant_db) == 1
        run = tenant_db.run(run_id)
        if times == 1:
            assert (run.status_reason, run.stage) == (None, "admission")
        elif times <= admission.MAX_OLDER_INDEXES:
            assert run.status_reason is not None
            assert run.status_reason["code"] == "cache_builders_outdated"
            assert f"{times} times" in run.status_reason["message"]
            assert run.stage == "admission"
        with tenant_db.database.transaction() as conn:  # a builder of before indexes it
            conn.execute(
                "UPDATE runs SET status = 'running', stage = 'caching' WHERE status = 'queued'"
            )
    assert tenant_db.run(run_id).status == "failed"
    reason = tenant_db.run(run_id).status_reason
    assert reason is not None
    assert "has to upgrade the cache builders" in reason["message"]
