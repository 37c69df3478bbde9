"""A bad row ends or postpones its own run; other tenants are served in the same round."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from services.cache_builder.indexing.index import Indexer
from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.queue.app import trainer_queue
from services.queue.rings import Rings
from services.store.database import Database, DatabaseBusyError
from services.store.failing_rows import MAX_FAILURES
from services.store.run_rows import Run
from tests.support.dispatching import DispatcherAndIndexer, build_all_shards, real_plan
from tests.support.objects import plain_folder
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase

LIMIT_BYTES = 20_000


@pytest.fixture
def impatient(database_url: str) -> Iterator[Database]:
    """A database connection with a lock timeout of 0.2 s."""
    database = Database(database_url, max_size=4, lock_timeout=timedelta(seconds=0.2))
    yield database
    database.close()


@pytest.fixture
def ada(impatient: Database) -> TenantDatabase:
    return TenantDatabase.new(impatient)


@pytest.fixture
def bob(ada: TenantDatabase) -> TenantDatabase:
    return ada.neighbour()


@pytest.fixture
def dispatcher(
    ada: TenantDatabase, redis_server: RedisServer, described_models_dir: Path, tmp_path: Path
) -> Iterator[DispatcherAndIndexer]:
    clock_s = [0.0]
    health = Health(60, lambda: clock_s[0])
    for clock_s[0] in range(0, 62, 2):  # it trusts leases after a minute without a gap
        health.note_answer()
    with Rings(redis_server.url) as rings:
        dispatcher = Dispatcher(
            database=ada.database,
            rings=rings,
            health=health,
            offer=timedelta(seconds=10),
            heartbeat=timedelta(seconds=10),
            max_attempts=3,
        )
        ada.builder()
        indexer = Indexer(
            database=ada.database,
            models_dir=described_models_dir,
            objects=plain_folder(tmp_path / "objects"),
            max_index_bytes=LIMIT_BYTES,
        )
        yield DispatcherAndIndexer(dispatcher=dispatcher, indexer=indexer)


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[psycopg.Connection]:
    """Another client's open transaction."""
    with psycopg.connect(database_url) as conn:
        yield conn
        conn.rollback()


def execute(tenant_db: TenantDatabase, statement: str, *facts: object) -> None:
    with tenant_db.database.transaction() as conn:
        assert conn.execute(statement.encode(), facts).rowcount != 0


def due_again(tenant_db: TenantDatabase, run_id: str) -> None:
    """Make the postponed run due at once."""
    execute(tenant_db, "UPDATE runs SET ring_after = clock_timestamp() WHERE run_id = %s", run_id)


def reason_code(run: Run) -> str:
    assert run.status_reason is not None
    return str(run.status_reason["code"])


def captions_of_length(tenant_db: TenantDatabase, run: Run, length: int) -> None:
    execute(
        tenant_db,
        "UPDATE dataset_files SET text = path || left(text || repeat('word ', %s), %s)"
        " WHERE media = 'caption' AND dataset_id = %s",
        length,
        length,
        run.datasets["photos"],
    )


@pytest.mark.parametrize("length", [LIMIT_BYTES, 4 * LIMIT_BYTES])
def test_data_larger_than_the_limit_fails_its_run_and_says_how_to_fix_it(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer, length: int
) -> None:
    huge = ada.queued(plan=real_plan())
    captions_of_length(ada, huge, length)
    good = bob.queued(plan=real_plan())

    dispatcher.round()

    run = ada.run(huge.run_id)
    assert (run.status, reason_code(run)) == ("failed", "data_index_too_large")
    assert run.status_reason is not None
    assert run.status_reason["category"] == "user"
    assert "Shorten the captions" in run.status_reason["message"]
    assert bob.run(good.run_id).stage == "caching"


def test_a_document_too_large_for_the_server_fails_its_run(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    # An entry of a B-tree takes 2,704 bytes at most: ProgramLimitExceeded, as for a huge jsonb.
    huge = ada.queued(plan=real_plan())
    execute(
        ada,
        "UPDATE dataset_files SET text = (SELECT string_agg(md5(n::text), ' ')"
        " FROM generate_series(1, 200) AS n) WHERE media = 'caption' AND dataset_id = %s",
        huge.datasets["photos"],
    )
    execute(
        ada,
        "CREATE INDEX small ON run_documents ((data_index #>> '{}'))"
        f" WHERE run_id = '{huge.run_id}'",
    )
    good = bob.queued(plan=real_plan())

    dispatcher.round()

    run = ada.run(huge.run_id)
    assert (run.status, reason_code(run)) == ("failed", "data_index_too_large")
    assert bob.run(good.run_id).stage == "caching"


def test_a_locked_run_is_skipped(
    ada: TenantDatabase,
    bob: TenantDatabase,
    dispatcher: DispatcherAndIndexer,
    elsewhere: psycopg.Connection,
) -> None:
    locked, good = ada.queued(plan=real_plan()), bob.queued(plan=real_plan())
    elsewhere.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (locked.run_id,))

    dispatcher.round()

    assert ada.run(locked.run_id).stage == "admission"
    assert bob.run(good.run_id).stage == "caching"
    elsewhere.rollback()
    dispatcher.round()
    assert ada.run(locked.run_id).stage == "caching"


def test_a_run_whose_shard_is_locked_is_postponed_with_the_reason(
    ada: TenantDatabase,
    bob: TenantDatabase,
    dispatcher: DispatcherAndIndexer,
    elsewhere: psycopg.Connection,
) -> None:
    first = ada.queued(plan=real_plan())
    dispatcher.round()
    second = ada.queued(plan=real_plan(), datasets=first.datasets)
    good = bob.queued(plan=real_plan())
    elsewhere.execute("UPDATE cache_shards SET attempts = 1 WHERE status = 'pending'")

    dispatcher.round()

    run = ada.run(second.run_id)
    assert (run.status, run.stage) == ("queued", "admission")
    assert reason_code(run) == "database_busy"
    assert run.dispatch_failures == 0  # it is not the run's fault
    assert bob.run(good.run_id).stage == "caching"
    elsewhere.rollback()
    due_again(ada, second.run_id)
    dispatcher.round()
    assert ada.run(second.run_id).stage == "caching"


CORRUPTIONS = {
    "an image without a size": "UPDATE dataset_files SET width_px = NULL WHERE dataset_id ="
    " (SELECT datasets ->> 'photos' FROM runs WHERE run_id = %s)",
    "datasets that are no object": "UPDATE runs SET datasets = '[]' WHERE run_id = %s",
    "an unknown dataset": """UPDATE runs SET datasets = '{"photos": "x"}' WHERE run_id = %s""",
    "no documents": "DELETE FROM run_documents WHERE run_id = %s",
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupt_run_fails_at_once(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer, corrupt: str
) -> None:
    broken, good = ada.queued(plan=real_plan()), bob.queued(plan=real_plan())
    execute(ada, corrupt, broken.run_id)

    dispatcher.round()

    run = ada.run(broken.run_id)
    assert (run.status, reason_code(run)) == ("failed", "run_damaged")
    assert run.status_reason is not None
    assert run.status_reason["category"] == "platform"
    assert ada.event_types(broken.run_id)[-1] == "run.failed"
    assert bob.run(good.run_id).stage == "caching"


@pytest.mark.parametrize("is_newer", [False, True])
def test_a_plan_of_an_older_version_fails_its_run_and_a_newer_one_waits(
    ada: TenantDatabase, dispatcher: DispatcherAndIndexer, is_newer: bool
) -> None:
    other = "plan || '{\"newer\": 1}'" if is_newer else "plan #- '{identity,seed}'"
    run_id = ada.queued(plan=real_plan()).run_id
    execute(ada, f"UPDATE run_documents SET plan = {other} WHERE run_id = %s", run_id)

    dispatcher.round()

    run = ada.run(run_id)
    assert reason_code(run) == "plan_of_other_version"
    assert run.status == ("queued" if is_newer else "failed")


def fail_admissions(tenant_db: TenantDatabase) -> None:
    """The database raises an error that the service does not know, for the runs of one tenant."""
    execute(
        tenant_db,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'a fault of a test'; END $$",
    )
    execute(
        tenant_db,
        "CREATE TRIGGER fail BEFORE UPDATE ON run_documents FOR EACH ROW"
        f" WHEN (NEW.tenant_id = '{tenant_db.tenant_id}') EXECUTE FUNCTION fail()",
    )


def test_an_unexpected_error_is_retried_and_then_fails_its_run(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    broken, good = ada.queued(plan=real_plan()), bob.queued(plan=real_plan())
    fail_admissions(ada)

    dispatcher.round()

    run = ada.run(broken.run_id)
    assert (run.status, run.stage, run.dispatch_failures) == ("queued", "admission", 1)
    assert reason_code(run) == "internal_error"
    assert bob.run(good.run_id).stage == "caching"
    for _ in range(MAX_FAILURES - 1):
        dispatcher.round()  # changes nothing: it is postponed
        assert ada.run(broken.run_id).status == "queued"
        due_again(ada, broken.run_id)
        dispatcher.round()
    run = ada.run(broken.run_id)
    assert (run.status, reason_code(run)) == ("failed", "internal_error")
    assert run.status_reason is not None
    assert run.status_reason["category"] == "platform"
    assert ada.event_types(broken.run_id)[-1] == "run.failed"


def test_failing_runs_do_not_stay_first_in_line(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    for _ in range(8):
        ada.queued(plan=real_plan())
    fail_admissions(ada)
    good = bob.queued(plan=real_plan())
    for _ in range(3):  # four admissions a round
        dispatcher.round()
    assert bob.run(good.run_id).stage == "caching"


def test_success_resets_the_failure_count(
    ada: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    run_id = ada.queued(plan=real_plan()).run_id
    execute(ada, "UPDATE runs SET dispatch_failures = 4 WHERE run_id = %s", run_id)
    dispatcher.round()
    assert ada.run(run_id).dispatch_failures == 0


def test_a_shard_without_a_readable_error_delays_only_its_own_run(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    broken, good = ada.queued(plan=real_plan()), bob.queued(plan=real_plan())
    dispatcher.round()
    build_all_shards(bob)
    execute(
        ada,
        "UPDATE cache_shards SET status = 'failed', error = '{}' WHERE tenant_id = %s",
        ada.tenant_id,
    )

    dispatcher.round()

    assert bob.run(good.run_id).stage == "capacity"
    run = ada.run(broken.run_id)
    assert (run.stage, run.dispatch_failures) == ("caching", 1)
    for _ in range(MAX_FAILURES - 1):
        due_again(ada, broken.run_id)
        dispatcher.round()
    assert reason_code(ada.run(broken.run_id)) == "internal_error"


def test_an_attempt_that_cannot_be_closed_does_not_delay_others(
    ada: TenantDatabase,
    bob: TenantDatabase,
    dispatcher: DispatcherAndIndexer,
    elsewhere: psycopg.Connection,
) -> None:
    stuck, lost = ada.held(), bob.held()
    for claim in (stuck, lost):
        ada.let_lease_run_out(claim.run_id)
    elsewhere.execute("UPDATE workers SET draining = true WHERE run_id = %s", (stuck.run_id,))

    dispatcher.round()

    assert ada.run(stuck.run_id).is_held
    assert not bob.run(lost.run_id).is_held
    elsewhere.rollback()
    due_again(ada, stuck.run_id)
    dispatcher.round()
    assert ada.attempts(stuck.run_id)[0].outcome == "lost"


def test_an_attempt_whose_end_cannot_be_written_does_not_delay_others(
    ada: TenantDatabase, bob: TenantDatabase, dispatcher: DispatcherAndIndexer
) -> None:
    broken, lost = ada.held(), bob.held()
    for claim in (broken, lost):
        ada.let_lease_run_out(claim.run_id)
    execute(
        ada,
        "ALTER TABLE attempts ADD CONSTRAINT never CHECK"
        f" (run_id <> '{broken.run_id}' OR outcome IS DISTINCT FROM 'lost')",
    )

    dispatcher.round()

    assert ada.run(broken.run_id).dispatch_failures == 1
    assert not bob.run(lost.run_id).is_held


def test_a_locked_run_does_not_use_up_a_workers_offer(
    ada: TenantDatabase,
    bob: TenantDatabase,
    dispatcher: DispatcherAndIndexer,
    elsewhere: psycopg.Connection,
    queues: Callable[[str], int],
) -> None:
    locked, good = ada.claimable(), bob.claimable()
    ada.worker()
    elsewhere.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (locked.run_id,))

    dispatcher.round()

    assert bob.run(good.run_id).offered_until is not None
    assert queues(trainer_queue("cpu")) == 1
    assert ada.ledger.claim(good.run_id, worker_id="w", lease=LEASE) is not None


def test_a_statement_timeout_is_not_an_outage(database_url: str) -> None:
    database = Database(database_url, max_size=1, statement_timeout=timedelta(seconds=0.1))
    with (
        pytest.raises(DatabaseBusyError, match="QueryCanceled"),
        database.transaction() as conn,
    ):
        conn.execute("SELECT pg_sleep(10)")
    with database.transaction() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    database.close()
