"""What is deleted is hidden at once and gone soon; what others need stays; the report says so."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain.errors import NotFoundError, StillNeededError
from services.objects.errors import ObjectStoreRefusedError
from services.objects.folder_store import FolderStore
from services.objects.keys import run_prefix, upload_key
from services.objects.signing import UrlSigner
from services.results.deletion.deleter import Deleter
from services.results.targets.folder import FolderTarget
from services.store import audit, datasets, run_control, run_lists, runs, shard_removal
from services.store.database import Database
from services.store.shard_removal import Rule, Taken
from tests.support.deletions import LEASE, Deleting
from tests.support.runs import shard_digest


@pytest.fixture
def ada(database: Database, tmp_path: Path) -> Deleting:
    return Deleting.new(database, tmp_path)


def dataset_of(ada: Deleting, run_id: str) -> str:
    (dataset_id,) = ada.db.run(run_id).datasets.values()
    return dataset_id


def test_a_run_is_hidden_at_once_and_gone_soon(ada: Deleting) -> None:
    other = ada.finished_run(0)
    run_id = ada.finished_run(0, 1)
    publication_id = ada.publish_to_hub(run_id)
    dataset_id = dataset_of(ada, run_id)
    kept = ada.stored() - ada.stored(f"runs/{run_id}/") - ada.stored(f"cache/{shard_digest(1)}/")
    deletion = ada.delete_run(run_id)

    with ada.db.database.transaction() as conn:
        with pytest.raises(NotFoundError):
            runs.get(conn, ada.db.tenant_id, run_id)
        assert [r.run_id for r in run_lists.list_page(conn, ada.db.tenant_id, 10)] == [other]
    assert ada.delete_run(run_id).deletion_id == deletion.deletion_id

    waiting = ada.work(deletion)  # a worker that was cut off may still write
    assert (waiting.status, ada.stored()) == ("running", kept)
    assert waiting.waits_for is not None
    assert ada.ask("SELECT count(*) FROM runs WHERE run_id = %s", run_id) == [(1,)]
    late = f"runs/{run_id}/attempts/1/checkpoints/step-00000030/state.safetensors"
    ada.objects.put_bytes(f"tenants/{ada.db.tenant_id}/{late}", b"late")

    ada.nobody_writes_any_more()
    ended = ada.work(deletion)
    assert (ended.status, ended.waits_for) == ("succeeded", None)
    assert ended.finished_at is not None
    assert ada.stored() == kept
    published = ada.folder / "publications" / ada.db.tenant_id
    assert [each.name for each in published.iterdir() if run_id in each.name] == []
    assert (published / other).is_dir()
    for (table,) in ada.ask(
        "SELECT table_name FROM information_schema.columns"
        " WHERE column_name = 'run_id' AND table_name <> 'workers'"
    ):
        found = ada.ask(f"SELECT count(*) FROM {table} WHERE run_id = %s", run_id)
        assert found == [(0,)], table
    report = ended.report
    assert report["objects"] == {
        "runs": {"num_objects": 7, "size_bytes": 3 * 9 + 4},
        "cache": {"num_objects": 2, "size_bytes": 9},
        "publications": {"num_objects": 3, "size_bytes": 15},
    }
    assert report["rows"]["runs"] == 1
    assert report["rows"]["checkpoints"] == 2
    assert report["rows"]["events"] > 2
    assert report["shared"] == {"cache shards that other runs name": 1}
    (stays,) = report["kept"]
    assert (stays["id"], stays["place"]) == (publication_id, "https://huggingface.co/ada/photos")
    assert report["checked"] == {f"tenants/{ada.db.tenant_id}/runs/{run_id}/": 0}
    assert ada.tombstone(deletion)["report"] == report
    with ada.db.database.transaction() as conn:
        datasets.get(conn, ada.db.tenant_id, dataset_id)
        (event,) = audit.list_page(conn, ada.db.tenant_id, 9, action="run.deleted")
    assert (event.target, event.actor["kind"]) == (run_id, "service")
    assert ada.db.run(other).status == "succeeded"


def test_only_a_run_that_is_over_and_ones_own_can_be_deleted(ada: Deleting) -> None:
    run_id = ada.open_run(0)
    bob = ada.db.neighbour()

    with pytest.raises(StillNeededError, match="The run is queued"):
        ada.delete_run(run_id)
    with pytest.raises(NotFoundError):
        Deleting(db=bob, objects=ada.objects, folder=ada.folder).delete_run(run_id)
    assert ada.db.run(run_id).status == "queued"
    assert ada.ask("SELECT count(*) FROM deletions") == [(0,)]


def test_a_run_is_not_deleted_under_a_publication_that_goes_on(ada: Deleting) -> None:
    run_id = ada.finished_run(0)
    ada.do(
        "UPDATE publications SET status = 'running', fence = 1,"
        " lease_until = clock_timestamp() + interval '1 hour'"
    )
    deletion = ada.delete_run(run_id)

    assert ada.work(deletion).waits_for == "a publication to end"
    assert ada.stored(f"runs/{run_id}/")
    ada.do("UPDATE publications SET lease_until = clock_timestamp()")
    ada.nobody_writes_any_more()
    assert ada.work(deletion).status == "succeeded"


class Touchy(FolderStore):
    """Calls back before it deletes."""

    before_delete: Callable[[str], None]

    def delete(self, key: str) -> None:
        self.before_delete(key)
        super().delete(key)


def touchy(ada: Deleting, before_delete: Callable[[str], None]) -> Deleting:
    objects = Touchy(ada.folder / "objects", UrlSigner(api_url="", signing_key=b"k" * 16))
    objects.before_delete = before_delete
    return replace(ada, objects=objects)


def test_a_deletion_that_the_store_refuses_says_so_and_does_not_stop_others(ada: Deleting) -> None:
    run_ids = [ada.finished_run(number) for number in (0, 1)]
    ada.nobody_writes_any_more()
    locked = set(run_ids[:1])

    def refuse(key: str) -> None:
        if any(run_id in key for run_id in locked):
            raise ObjectStoreRefusedError(f"{key}: object lock")

    bucket = touchy(ada, refuse)
    held, free = (bucket.delete_run(run_id) for run_id in run_ids)
    bucket.deleter.work()
    assert bucket.now(held).waits_for == "the object store to allow the deletion"
    assert bucket.now(free).status == "succeeded"
    locked.clear()
    assert bucket.work(held).status == "succeeded"
    assert bucket.stored(f"runs/{run_ids[0]}/") == set()


def test_a_deletion_ends_between_two_portions_when_the_process_stops(ada: Deleting) -> None:
    run_id = ada.finished_run(0)
    ada.nobody_writes_any_more()
    for number in range(150):
        ada.objects.put_bytes(f"{run_prefix(ada.db.tenant_id, run_id)}more/{number}", b"1")
    stored = len(ada.stored(f"runs/{run_id}/"))
    deletion = ada.delete_run(run_id)
    stopping = threading.Event()
    bucket = touchy(ada, lambda _: stopping.set())
    deleter = Deleter(
        ada.db.database,
        bucket.objects,
        FolderTarget(ada.folder / "publications"),
        lease=LEASE,
        is_stopping=stopping.is_set,
    )

    assert deleter.work() == 1
    assert len(ada.stored(f"runs/{run_id}/")) == stored - 100
    assert ada.now(deletion).status == "running"
    assert ada.deleter.work() == 1  # another process goes on at once
    assert ada.now(deletion).status == "succeeded"


def test_a_dataset_goes_with_what_was_cached_of_it_and_leaves_what_others_list(
    ada: Deleting,
) -> None:
    run_id = ada.finished_run(0, 1)
    dataset_id = dataset_of(ada, run_id)
    other = ada.finished_run(1)  # another dataset of the same files
    kept = ada.stored() - ada.stored(f"cache/{shard_digest(0)}/")
    with ada.db.database.transaction() as conn:
        third = datasets.create(
            conn,
            ada.db.tenant_id,
            "only here",
            [datasets.NewFile(path="z.jpg", media="image", size_bytes=3, sha256="d" * 64)],
        )
    ada.objects.put_bytes(upload_key(ada.db.tenant_id, "d" * 64), b"abc")
    deletion, lonely = ada.delete_dataset(dataset_id), ada.delete_dataset(third.dataset_id)
    with ada.db.database.transaction() as conn, pytest.raises(NotFoundError):
        datasets.get(conn, ada.db.tenant_id, dataset_id)

    assert ada.work(deletion).waits_for is not None  # its upload addresses still work
    ada.nobody_writes_any_more()
    ended = ada.work(deletion)
    assert ended.status == "succeeded"
    assert ada.stored() == kept
    assert ended.report["rows"] == {"dataset_files": 4, "datasets": 1}
    assert ended.report["objects"] == {"cache": {"num_objects": 2, "size_bytes": 9}}
    assert ended.report["shared"] == {
        "cache shards that other runs name": 1,
        "files that other datasets list": 3,
    }
    assert ada.now(lonely).report["objects"] == {"uploads": {"num_objects": 1, "size_bytes": 3}}
    assert ada.db.run(run_id).status == "succeeded"
    assert dataset_of(ada, other) != dataset_id


def test_two_datasets_of_the_same_files_leave_none_behind(ada: Deleting) -> None:
    first, second = (dataset_of(ada, ada.finished_run(n)) for n in (0, 1))
    both = [ada.delete_dataset(first), ada.delete_dataset(second)]
    ada.nobody_writes_any_more()

    for deletion in both:
        assert ada.work(deletion).status == "succeeded"
    assert ada.stored("uploads/") == set()
    counted = [ada.now(deletion).report["objects"].get("uploads") for deletion in both]
    assert counted == [{"num_objects": 3, "size_bytes": 27}, None]


def test_a_dataset_that_an_open_run_needs_is_kept(ada: Deleting) -> None:
    run_id = ada.open_run(0)

    with pytest.raises(StillNeededError, match=run_id):
        ada.delete_dataset(dataset_of(ada, run_id))
    with ada.db.database.transaction() as conn:
        run_control.cancel(conn, ada.db.tenant_id, run_id)
    dataset_id = dataset_of(ada, run_id)
    ada.delete_dataset(dataset_id)
    with ada.db.database.transaction() as conn:  # no new run on it
        assert datasets.usability(conn, ada.db.tenant_id, [dataset_id]) == {}


def test_a_run_that_starts_to_need_a_shard_while_it_is_deleted_has_it_built_again(
    ada: Deleting,
) -> None:
    run_id = ada.finished_run(0)
    with ada.db.database.transaction() as conn:
        taken = shard_removal.take(conn, ada.shard(0), Rule.RUN, run_id, lease=LEASE)
    assert isinstance(taken, Taken)
    newer = ada.db.queued()
    ada.admit(newer.run_id, 0)  # between the two transactions of the deletion
    assert ada.db.run(newer.run_id).stage == "caching"
    for key in ada.stored("cache/"):
        ada.objects.delete(key)

    with ada.db.database.transaction() as conn:
        assert not shard_removal.drop(conn, taken, Rule.RUN, run_id)
    assert ada.ask(
        "SELECT status, lease_until, ring_after <= clock_timestamp() FROM cache_shards"
    ) == [("pending", None, True)]
    deletion = ada.delete_run(run_id)
    ada.nobody_writes_any_more()
    assert ada.work(deletion).status == "succeeded"
    ada.build(0)
    assert len(ada.stored("cache/")) == 2


def test_a_shard_that_a_run_started_to_need_before_is_not_taken(ada: Deleting) -> None:
    run_id, newer = ada.finished_run(0), ada.open_run(0)
    deletion = ada.delete_run(run_id)
    ada.nobody_writes_any_more()

    assert ada.work(deletion).status == "succeeded"
    assert len(ada.stored("cache/")) == 2
    assert ada.db.run(newer).stage == "capacity"
