"""Whose run is indexed next, and what happens to a run that ends its indexer."""

import hashlib
import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest

from services.cache_builder.indexing.index import Indexer
from services.domain.attempt_budgets import MAX_INFRA_FAILURES
from services.domain.errors import Problem
from services.domain.starts import StartObject, StoredStart
from services.objects.errors import ObjectStoreDownError, ObjectStoreError, ObjectTooBigError
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.processes.tree import descendants, send_signal
from services.store import datasets, index_tasks
from services.store.database import Database
from services.store.datasets import NewFile
from services.store.failing_rows import MAX_FAILURES
from services.store.index_tasks import LARGE_FILES, IndexOffer
from services.store.run_rows import Run
from tests.support.adapter_bytes import ONE_LORA, lora_bytes
from tests.support.dispatching import real_plan
from tests.support.failing_store import store_in
from tests.support.objects import SIGNING_KEY, plain_folder
from tests.support.runs import TenantDatabase
from tests.support.verifying import end_verification
from tests.support.waiting import wait_until
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.process.stat import ProcessId

OFFER = timedelta(seconds=10)


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


@pytest.fixture
def bob(ada: TenantDatabase) -> TenantDatabase:
    return ada.neighbour()


@pytest.fixture
def indexer(ada: TenantDatabase, described_models_dir: Path, tmp_path: Path) -> Indexer:
    return Indexer(
        database=ada.database,
        models_dir=described_models_dir,
        objects=plain_folder(tmp_path / "objects"),
    )


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


def taken(tenant_db: TenantDatabase, run_id: str) -> bool:
    """Offer the run and take it."""
    assert ids_of(offered(tenant_db)) == [run_id]
    with tenant_db.database.transaction() as conn:
        return index_tasks.take(conn, tenant_db.tenant_id, run_id) is not None


def test_indexers_that_vanish_use_up_a_budget_of_their_own(
    ada: TenantDatabase, indexer: Indexer
) -> None:
    """Five machines that are switched off do not fail a healthy run."""
    run_id = ada.queued(plan=real_plan()).run_id
    ada.builder()
    for _ in range(MAX_FAILURES + 1):
        assert taken(ada, run_id)
        due_again(ada, run_id)
    assert ids_of(offered(ada)) == [run_id]
    indexer.admit(ada.tenant_id, run_id)
    run = ada.run(run_id)
    assert (run.stage, run.infra_failures) == ("caching", 0)


def test_a_run_whose_indexers_always_vanish_fails(ada: TenantDatabase) -> None:
    run_id = ada.queued().run_id
    ada.builder()
    for _ in range(MAX_INFRA_FAILURES):
        assert taken(ada, run_id)
        due_again(ada, run_id)
    assert not taken(ada, run_id)
    assert end_of(ada, run_id) == ("failed", "attempts_exhausted")


@pytest.fixture
def real_process(
    indexer: Indexer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """An indexing process that is started gets these settings."""
    for name, value in {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_MODELS_DIR": str(indexer.models_dir),
        "REVERIE_OBJECTS_URL": f"file://{tmp_path / 'objects'}",
        "REVERIE_SIGNING_KEY": SIGNING_KEY.hex(),
        "REVERIE_ENV": "test",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_run_that_ends_a_process_of_its_own_each_time_fails(
    ada: TenantDatabase, indexer: Indexer, real_process: pytest.MonkeyPatch
) -> None:
    real_process.setenv("FAULT_AT", "index.taken=kill")
    run_id = ada.queued(plan=real_plan()).run_id
    ada.builder()
    assert taken(ada, run_id)  # a small one: it ends the indexer and whatever else is there
    due_again(ada, run_id)
    execute(ada, "UPDATE runs SET dispatch_failures = %s", MAX_FAILURES - 2)
    assert ids_of(offered(ada)) == [run_id]

    indexer.answer_ring(ada.tenant_id, run_id)

    assert end_of(ada, run_id) == ("queued", "indexing_interrupted")
    assert ada.run(run_id).dispatch_failures == MAX_FAILURES - 1
    due_again(ada, run_id)
    assert ids_of(offered(ada)) == [run_id]
    indexer.answer_ring(ada.tenant_id, run_id)
    assert end_of(ada, run_id) == ("failed", "indexing_died")


def test_a_process_that_cannot_start_does_not_count_against_the_run(
    ada: TenantDatabase, indexer: Indexer, real_process: pytest.MonkeyPatch
) -> None:
    real_process.setenv("REVERIE_LOG_FORMAT", "none")  # ends it before it takes the run
    run = ada.queued(plan=real_plan())
    make_large(ada, run.datasets["photos"])
    ada.builder()
    assert ids_of(offered(ada)) == [run.run_id]

    indexer.answer_ring(ada.tenant_id, run.run_id)

    seen = ada.run(run.run_id)
    assert (seen.status, seen.dispatch_failures, seen.status_reason) == ("queued", 0, None)


def test_a_process_that_is_stopped_with_its_machine_does_not_count_against_the_run(
    ada: TenantDatabase, indexer: Indexer, real_process: pytest.MonkeyPatch
) -> None:
    real_process.setenv("FAULT_AT", "index.taken=stall")
    run = ada.queued(plan=real_plan())
    make_large(ada, run.datasets["photos"])
    ada.builder()
    assert ids_of(offered(ada)) == [run.run_id]
    answering = Thread(target=indexer.answer_ring, args=(ada.tenant_id, run.run_id))
    answering.start()
    wait_until(lambda: ada.run(run.run_id).infra_failures == 1, what="an indexing process")

    send_signal(indexing_process(run.run_id), signal.SIGTERM)
    answering.join()

    seen = ada.run(run.run_id)
    assert (seen.status, seen.dispatch_failures, seen.status_reason) == ("queued", 0, None)
    assert (seen.stage, seen.infra_failures) == ("admission", 1)


def indexing_process(run_id: str) -> ProcessId:
    (found,) = [each for each in descendants([os.getpid()]) if run_id in command_of(each)]
    return found


def command_of(process: ProcessId) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text()
    except OSError:
        return ""


def end_of(tenant_db: TenantDatabase, run_id: str) -> tuple[str, str]:
    run = tenant_db.run(run_id)
    assert run.status_reason is not None
    return run.status, str(run.status_reason["code"])


def test_a_large_run_has_a_process_of_its_own(
    ada: TenantDatabase, indexer: Indexer, real_process: pytest.MonkeyPatch
) -> None:
    run = ada.queued(plan=real_plan())
    make_large(ada, run.datasets["photos"])
    ada.builder()
    assert ids_of(offered(ada)) == [run.run_id]
    indexer.answer_ring(ada.tenant_id, run.run_id)
    assert ada.run(run.run_id).stage == "caching"


def starting(ada: TenantDatabase, store: ObjectStore, body: bytes | None) -> str:
    """A run that starts from an upload, which was not stored when it was submitted."""
    plan = import_small(
        {name: value for name, value in ONE_LORA.items() if value is not None},
        backends=[{"id": "photos", "caption_strategy": "filename"}],
    ).plan.model_dump(mode="json")
    written = lora_bytes(4, out_features=64) if body is None else body
    sha256 = hashlib.sha256(written).hexdigest()
    key = upload_key(ada.tenant_id, sha256)
    if body is not None:
        store.put_bytes(key, body)
    file = NewFile(path="a.safetensors", media="adapter", size_bytes=len(written), sha256=sha256)
    with ada.database.transaction() as conn:
        dataset_id = datasets.create(conn, ada.tenant_id, "old", [file]).dataset_id
    only = StartObject(name=file.path, key=key, sha256=sha256, size_bytes=len(written))
    start = StoredStart(source=dataset_id, step=None, files=(only,), path=file.path)
    return ada.queued(plan=plan, start_adapter=start.as_json()).run_id


def verified(ada: TenantDatabase, run_id: str) -> None:
    """The upload is complete and whole."""
    start = ada.run(run_id).start_adapter
    assert start is not None
    with ada.database.transaction() as conn:
        datasets.complete(conn, ada.tenant_id, start["source"])
        end_verification(conn, ada.tenant_id, start["source"], facts=[])


def indexed(ada: TenantDatabase, indexer: Indexer, run_id: str) -> Run:
    due_again(ada, run_id)
    assert ids_of(offered(ada)) == [run_id]
    indexer.admit(ada.tenant_id, run_id)
    return ada.run(run_id)


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (4, None),
        (8, "does not fit the adapter of this run: its rank is 8 and lora_rank is 4: set lora_"),
        (None, "a.safetensors is missing or damaged in the store. Start from another adapter, or"),
    ],
)
def test_an_upload_that_a_run_starts_from_is_waited_for_and_checked(
    rank: int | None, words: str | None, ada: TenantDatabase, indexer: Indexer
) -> None:
    width = TINY_CONFIG["num_attention_heads"] * TINY_CONFIG["attention_head_dim"]
    body = None if rank is None else lora_bytes(rank, out_features=width)
    ada.builder()
    run_id = starting(ada, indexer.objects, body)
    assert (indexed(ada, indexer, run_id).status, ada.run(run_id).stage) == ("queued", "admission")

    verified(ada, run_id)
    run = indexed(ada, indexer, run_id)

    if words is None:
        assert (run.status, run.stage) == ("running", "caching"), run.status_reason
    else:
        assert run.status == "failed"
        assert run.status_reason is not None
        assert words in run.status_reason["message"]


def test_a_run_whose_upload_to_start_from_is_rejected_names_the_file(
    ada: TenantDatabase, indexer: Indexer
) -> None:
    ada.builder()
    run_id = starting(ada, indexer.objects, lora_bytes(4, out_features=64))
    start = ada.run(run_id).start_adapter
    assert start is not None
    wrong = Problem(
        pointer="a.safetensors", code="bad_adapter_file", message="a.safetensors is cut off."
    )
    with ada.database.transaction() as conn:
        datasets.complete(conn, ada.tenant_id, start["source"])
        end_verification(conn, ada.tenant_id, start["source"], problems=[wrong])

    run = indexed(ada, indexer, run_id)

    assert run.status == "failed"
    assert run.status_reason is not None
    assert (run.status_reason["code"], run.status_reason["category"]) == (wrong.code, "user")
    assert run.status_reason["message"] == wrong.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ObjectStoreDownError("no answer"), ("queued", "object_store_down")),
        (ObjectTooBigError("a", limit_bytes=1), ("failed", "start_adapter_corrupt")),
    ],
    ids=["down", "too-big"],
)
def test_only_a_store_that_fails_postpones_a_run_that_starts_from_an_upload(
    error: ObjectStoreError,
    expected: tuple[str, str],
    ada: TenantDatabase,
    indexer: Indexer,
    tmp_path: Path,
) -> None:
    store = store_in(tmp_path)
    ada.builder()
    run_id = starting(ada, store, lora_bytes(4, out_features=64))
    verified(ada, run_id)
    store.error = error

    run = indexed(ada, replace(indexer, objects=store), run_id)

    assert run.status_reason is not None
    assert (run.status, run.status_reason["code"]) == expected
