"""Whose run is indexed next, and what happens to a run that ends its indexer."""

from datetime import timedelta
from pathlib import Path

import pytest

from services.cache_builder.indexing.index import Indexer
from services.store import index_tasks
from services.store.database import Database
from services.store.failing_rows import MAX_FAILURES
from services.store.index_tasks import LARGE_FILES, IndexOffer
from tests.support.dispatching import real_plan
from tests.support.runs import TenantDatabase

OFFER = timedelta(seconds=10)


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


@pytest.fixture
def bob(ada: TenantDatabase) -> TenantDatabase:
    return ada.neighbour()


@pytest.fixture
def indexer(ada: TenantDatabase, described_models_dir: Path) -> Indexer:
    return Indexer(database=ada.database, models_dir=described_models_dir)


def offered(tenant_db: TenantDatabase) -> list[IndexOffer]:
    with tenant_db.database.transaction() as conn:
        return index_tasks.take_offers(conn, offer=OFFER, silence=timedelta(seconds=30))


def ids_of(offers: list[IndexOffer]) -> list[str]:
    return [offer.run_id for offer in offers]


def execute(tenant_db: TenantDatabase, statement: str, *facts: object) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute(statement.encode(), facts)


def due_again(tenant_db: TenantDatabase, run_id: str) -> None:
    """Also where an indexer holds it: as if that one had died and its lease had run out."""
    execute(
        tenant_db,
        "UPDATE runs SET ring_after = clock_timestamp(), index_until = NULL, offered_until = NULL"
        " WHERE run_id = %s",
        run_id,
    )


def make_large(tenant_db: TenantDatabase, dataset_id: str) -> None:
    execute(
        tenant_db,
        "UPDATE datasets SET num_files = %s WHERE dataset_id = %s",
        LARGE_FILES + 1,
        dataset_id,
    )


def test_tenants_take_turns(ada: TenantDatabase, bob: TenantDatabase) -> None:
    first, second, third = (ada.queued().run_id for _ in range(3))
    late = bob.queued().run_id
    assert offered(ada) == []  # there is no builder
    ada.builder()

    assert ids_of(offered(ada)) == [first, late, second]

    assert offered(ada) == []  # two of a tenant at once
    with ada.database.transaction() as conn:
        assert index_tasks.take(conn, ada.tenant_id, first) is not None
        assert index_tasks.take(conn, ada.tenant_id, first) is None  # a repeated ring
    assert offered(ada) == []  # one that is being indexed counts, too
    execute(ada, "UPDATE runs SET stage = 'capacity' WHERE run_id = %s", first)
    assert ids_of(offered(ada)) == [third]


def test_one_run_in_flight_leaves_room_for_one(ada: TenantDatabase) -> None:
    first = ada.queued().run_id
    ada.builder()
    assert ids_of(offered(ada)) == [first]
    second, _ = (ada.queued().run_id for _ in range(2))

    assert ids_of(offered(ada)) == [second]


def test_a_tenant_whose_admitted_runs_wait_goes_behind(
    ada: TenantDatabase, bob: TenantDatabase
) -> None:
    ada.claimable()
    ada.claimable()
    mine, late = ada.queued().run_id, bob.queued().run_id
    ada.builder()
    assert ids_of(offered(ada)) == [late, mine]


def test_one_large_run_a_builder(ada: TenantDatabase, bob: TenantDatabase) -> None:
    large, other = ada.queued(), bob.queued()
    for tenant_db, run in ((ada, large), (bob, other)):
        make_large(tenant_db, run.datasets["photos"])
    small = ada.queued().run_id
    ada.builder()

    offers = {offer.run_id: offer.is_large for offer in offered(ada)}

    assert offers == {large.run_id: True, small: False}


def test_a_locked_run_and_a_corrupt_one_are_no_obstacle(
    ada: TenantDatabase, bob: TenantDatabase
) -> None:
    locked, corrupt, good = ada.queued(), ada.queued(), bob.queued()
    execute(ada, "UPDATE runs SET datasets = '[]' WHERE run_id = %s", corrupt.run_id)
    ada.builder()
    with ada.database.transaction() as other:
        other.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (locked.run_id,))
        assert set(ids_of(offered(ada))) == {corrupt.run_id, good.run_id}


def test_a_run_that_ends_its_indexer_each_time_fails(ada: TenantDatabase) -> None:
    run_id = ada.queued().run_id
    ada.builder()
    for _ in range(MAX_FAILURES):
        assert ids_of(offered(ada)) == [run_id]
        with ada.database.transaction() as conn:
            assert index_tasks.take(conn, ada.tenant_id, run_id) is not None
        due_again(ada, run_id)
    assert ids_of(offered(ada)) == [run_id]
    with ada.database.transaction() as conn:
        assert index_tasks.take(conn, ada.tenant_id, run_id) is None
    run = ada.run(run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "indexing_died"


@pytest.mark.parametrize("fault", ["index.taken=kill", ""])
def test_a_large_run_has_a_process_of_its_own(
    ada: TenantDatabase,
    indexer: Indexer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    for name, value in {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_MODELS_DIR": str(indexer.models_dir),
        "REVERIE_ENV": "test",
        "FAULT_AT": fault,
    }.items():
        monkeypatch.setenv(name, value)
    run = ada.queued(plan=real_plan())
    make_large(ada, run.datasets["photos"])
    ada.builder()
    assert ids_of(offered(ada)) == [run.run_id]

    indexer.answer_ring(ada.tenant_id, run.run_id)

    seen = ada.run(run.run_id)
    if not fault:
        assert seen.stage == "caching"
        return
    assert (seen.stage, seen.dispatch_failures) == ("admission", 1)
    assert seen.status_reason is not None
    assert seen.status_reason["code"] == "indexing_interrupted"
    assert offered(ada) == []  # postponed
