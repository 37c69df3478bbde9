"""The dispatcher on a real PostgreSQL and a real Redis: admission, rings, offers, sweeps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.cache_builder.indexing.index import Indexer
from services.dispatcher.loop import Dispatcher
from services.domain.errors import Problem
from services.queue.app import (
    CACHE_QUEUE,
    CONTROL_QUEUE,
    NOTIFY_QUEUE,
    trainer_queue,
    worker_queue,
)
from services.store import datasets, imports, publications, run_lists, shards
from tests.support.dispatching import DispatcherAndIndexer, build_all_shards, real_plan
from tests.support.objects import plain_folder
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase, result_of
from tests.support.verifying import end_verification
from tests.unit.config_examples import import_small
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

TRAIN = trainer_queue("cpu")


@pytest.fixture
def service(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, described_models_dir: Path, tmp_path: Path
) -> DispatcherAndIndexer:
    """With two cache builders: four rows of cache work may be in flight."""
    for _ in range(2):
        tenant_db.builder()
    indexer = Indexer(
        database=tenant_db.database,
        models_dir=described_models_dir,
        objects=plain_folder(tmp_path / "objects"),
    )
    return DispatcherAndIndexer(dispatcher=dispatcher, indexer=indexer)


def test_imports_are_rung_one_a_builder_and_not_again_while_they_are_offered(
    service: DispatcherAndIndexer, tenant_db: TenantDatabase, queues: Callable[[str], int]
) -> None:
    with tenant_db.database.transaction() as conn:
        for _ in range(3):
            dataset = datasets.create(conn, tenant_db.tenant_id, "photos", [])
            imports.create(conn, tenant_db.tenant_id, dataset.dataset_id, {"type": "csv"}, "url\n")
    for _ in range(2):
        service.dispatcher.round()
    assert queues(CONTROL_QUEUE) == 2


def test_a_run_goes_from_admission_to_an_offer(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer, queues: Callable[[str], int]
) -> None:
    run_id = tenant_db.queued(plan=real_plan()).run_id
    tenant_db.worker()

    service.round()
    run = tenant_db.run(run_id)
    assert (run.status, run.stage) == ("running", "caching")
    num_shards = len(tenant_db.shards_of(run_id))
    assert queues(CACHE_QUEUE) == num_shards > 0
    assert queues(TRAIN) == 0

    assert len(build_all_shards(tenant_db)) == num_shards
    service.round()
    run = tenant_db.run(run_id)
    assert (run.status, run.stage) == ("queued", "capacity")
    assert run.offered_until is not None
    assert queues(TRAIN) == 1
    for _ in range(3):
        service.round()
    assert (queues(CACHE_QUEUE), queues(TRAIN)) == (num_shards, 1)
    assert tenant_db.ledger.claim(run_id, worker_id="w", lease=LEASE) is not None


def test_the_steps_of_a_run_in_epochs_are_counted_at_admission(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    plan = real_plan()
    length = {"max_train_steps": None, "num_train_epochs": 3, "micro_batch_size": 1}
    plan["identity"] |= length
    plan["operation"] |= {"checkpoint_epoch_interval": 1, "checkpoint_step_interval": 100}
    run_id = tenant_db.queued(plan=plan, max_steps=0).run_id
    assert tenant_db.run(run_id).max_steps == 0

    service.round()

    run = tenant_db.run(run_id)
    assert run.max_steps == 6  # two pictures, one a batch
    assert run.work is not None
    assert run.work["checkpoint_interval"] == 2


def test_masks_are_paired_and_cached_like_their_images(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    backends = [{"id": name, "caption_strategy": "textfile"} for name in ("photos", "masks")]
    plan = import_small(backends=backends).plan.model_dump(mode="json")
    photos, masks = plan["identity"]["backends"]
    photos["masks"] = "masks"
    masks |= {"role": "mask", "mask_kind": "mask"}
    with tenant_db.database.transaction() as conn:
        datasets_of = {name: tenant_db.dataset(conn).dataset_id for name in ("photos", "masks")}
    run_id = tenant_db.queued(plan=plan, datasets=datasets_of).run_id

    service.round()

    index = tenant_db.data_index(run_id)
    assert [sample["backend"] for sample in index["samples"]] == ["photos", "photos"]
    kinds = [index["encodings"][entry["encoding"]]["kind"] for entry in index["entries"]]
    assert {kinds[sample["mask"]] for sample in index["samples"]} == {"masks"}
    assert sorted(set(kinds)) == ["latents", "masks", "text"]
    assert len(build_all_shards(tenant_db)) == 4, "one of each kind, and one of the prompts"
    service.round()
    assert tenant_db.run(run_id).stage == "capacity"


def test_shards_of_the_same_data_are_built_once(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer, queues: Callable[[str], int]
) -> None:
    first = tenant_db.queued(plan=real_plan())
    service.round()
    num_shards = len(build_all_shards(tenant_db))
    second = tenant_db.queued(plan=real_plan(), datasets=first.datasets)
    service.round()
    assert tenant_db.event_types(second.run_id) == ["run.queued", "run.queued"]  # nothing to cache
    assert queues(CACHE_QUEUE) == num_shards
    with tenant_db.database.transaction() as conn:
        states = {(r.status, r.stage) for r in run_lists.list_page(conn, tenant_db.tenant_id, 10)}
    assert states == {("queued", "capacity")}


def test_a_run_waits_for_its_dataset(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer, queues: Callable[[str], int]
) -> None:
    with tenant_db.database.transaction() as conn:
        dataset = tenant_db.dataset(conn, ready=False)
        datasets.complete(conn, tenant_db.tenant_id, dataset.dataset_id)
    run_id = tenant_db.queued(plan=real_plan(), datasets={"photos": dataset.dataset_id}).run_id
    service.round()
    assert queues(CACHE_QUEUE) == 1
    assert tenant_db.run(run_id).stage == "admission"
    wrong = Problem(pointer="b.png", code="bad_image", message="b.png is damaged.")
    with tenant_db.database.transaction() as conn:
        end_verification(conn, tenant_db.tenant_id, dataset.dataset_id, problems=[wrong])
    service.round()
    run = tenant_db.run(run_id)
    assert run.status == "failed"
    assert run.status_reason == {
        "code": "bad_image",
        "category": "user",
        "message": "b.png is damaged.",
        "retryable": False,
    }


def test_data_without_a_usable_sample_fails_the_run_with_the_reason(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    run_id = tenant_db.queued(plan=real_plan(minimum_image_size=200)).run_id
    service.round()
    run = tenant_db.run(run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert (run.status_reason["code"], run.status_reason["category"]) == ("empty_dataset", "user")
    assert "a.png" in run.status_reason["message"]


def test_a_run_that_cannot_be_read_does_not_stop_others(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    broken, good = tenant_db.queued(plan={"nonsense": True}), tenant_db.queued(plan=real_plan())
    service.round()
    assert tenant_db.run(broken.run_id).status == "failed"
    assert tenant_db.run(good.run_id).stage == "caching"


def test_a_missing_base_model_makes_a_run_wait(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    run_id = tenant_db.queued(plan=real_plan(), base_model="elsewhere").run_id
    service.round()
    run = tenant_db.run(run_id)
    assert (run.status, run.stage) == ("queued", "admission")
    assert run.status_reason is not None
    assert run.status_reason["code"] == "base_model_missing"


def test_a_shard_that_cannot_be_built_fails_its_runs_and_is_tried_for_the_next(
    tenant_db: TenantDatabase, service: DispatcherAndIndexer
) -> None:
    first = tenant_db.queued(plan=real_plan())
    service.round()
    wrong = Failure(
        code="bad_image", category=Category.USER, message="a.png is damaged.", retryable=False
    )
    with tenant_db.database.transaction() as conn:
        digest = conn.execute("SELECT digest FROM cache_shards LIMIT 1").fetchall()[0][0]
        work = shards.take(conn, tenant_db.tenant_id, digest)
        assert work is not None
        shards.failed(conn, work, wrong)
    service.round()
    failed = tenant_db.run(first.run_id)
    assert failed.status == "failed"
    assert failed.status_reason is not None
    assert failed.status_reason["message"] == "a.png is damaged."

    tenant_db.queued(plan=real_plan(), datasets=first.datasets)
    service.round()
    with tenant_db.database.transaction() as conn:
        assert shards.take(conn, tenant_db.tenant_id, digest) is not None


def test_no_more_offers_than_free_workers(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, queues: Callable[[str], int]
) -> None:
    for _ in range(5):
        tenant_db.claimable()
    dispatcher.round()
    assert queues(TRAIN) == 0
    tenant_db.worker()
    tenant_db.worker()
    tenant_db.worker(draining=True)
    tenant_db.worker(gpu_class="h200")
    silent = tenant_db.worker()
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE workers SET heartbeat_at = now() - interval '31 s' WHERE worker_id = %s",
            (silent,),
        )
    for _ in range(3):
        dispatcher.round()
    assert queues(TRAIN) == 2


def test_the_queue_of_a_worker_is_deleted_a_day_after_its_last_heartbeat(
    tenant_db: TenantDatabase,
    dispatcher: Dispatcher,
    redis_server: RedisServer,
    queues: Callable[[str], int],
) -> None:
    tenant_db.claimable()
    gone, alive = tenant_db.worker(node="a"), tenant_db.worker(node="a")
    tenant_db.claimable()
    dispatcher.round()
    assert [queues(worker_queue(id_)) for id_ in (gone, alive)] == [1, 1]
    assert queues(TRAIN) == 0
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE workers SET heartbeat_at = now() - interval '25 h' WHERE worker_id = %s",
            (gone,),
        )
    dispatcher.round()
    with redis_server.client() as client:
        assert [key for key in client.scan_iter() if gone.encode() in key] == []
    with tenant_db.database.transaction() as conn:
        assert conn.execute("SELECT worker_id FROM workers").fetchall() == [(alive,)]
    assert queues(worker_queue(alive)) == 1


def test_an_offer_that_no_worker_took_is_repeated(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, queues: Callable[[str], int]
) -> None:
    tenant_db.claimable()
    tenant_db.worker()
    dispatcher.round()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET offered_until = now() - interval '1 second'")
    dispatcher.round()
    assert queues(TRAIN) == 2


def test_publications_are_rung_for(
    tenant_db: TenantDatabase, dispatcher: Dispatcher, queues: Callable[[str], int]
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    for _ in range(3):
        dispatcher.round()
    assert queues(NOTIFY_QUEUE) == 1
    with tenant_db.database.transaction() as conn:
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10)
        assert publications.claim(conn, publication.publication_id, LEASE) is not None


def test_with_the_broker_down_rows_stay_due(
    tenant_db: TenantDatabase,
    service: DispatcherAndIndexer,
    redis_server: RedisServer,
    queues: Callable[[str], int],
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    tenant_db.worker()
    waiting = tenant_db.claimable()
    tenant_db.queued(plan=real_plan())
    redis_server.kill()
    try:
        service.round()  # does not raise
        run = tenant_db.run(waiting.run_id)
        assert run.offered_until is None
    finally:
        redis_server.start()
    service.round()
    assert queues(TRAIN) == 1
    assert queues(NOTIFY_QUEUE) == 1
    assert queues(CACHE_QUEUE) > 0
