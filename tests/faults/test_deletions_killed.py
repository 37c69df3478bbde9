"""Whoever deletes may be killed anywhere, and several may: all is deleted, and counted once."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from services.objects.folder_store import FolderStore
from services.objects.keys import upload_key
from services.objects.signing import UrlSigner
from services.results.shard_removal import remove_shard
from services.store.database import Database
from services.store.deletions import Deletion
from services.store.shard_removal import Rule
from tests.support.deletions import LEASE, Deleting
from tests.support.runs import shard_digest

SIGNER = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
OBJECTS = ("deletion.batch_noted", "deletion.objects_deleted")
SHARDS = ("deletion.shard_taken", "deletion.shard_emptied")


@pytest.fixture
def ada(database: Database, tmp_path: Path) -> Deleting:
    return Deleting.new(database, tmp_path)


def work_until_killed(ada: Deleting, point: str) -> None:
    """A process that deletes and is killed at this point."""

    def work() -> None:
        os.environ.update({"REVERIE_ENV": "test", "FAULT_AT": f"{point}=kill"})
        database = Database(ada.db.database._url, max_size=2)
        replace(ada, db=replace(ada.db, database=database)).deleter.work()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL, point
    ada.due_now()


def counted(ada: Deleting) -> dict[str, int]:
    """The tenant's objects by folder, and the files that it published to the service's own."""
    objects = Counter(key.split("/")[2] for key in ada.stored())
    published = (ada.folder / "publications").rglob("*")
    return objects + Counter(publications=sum(each.is_file() for each in published))


def assert_all_counted(deletion: Deletion, before: dict[str, int], after: dict[str, int]) -> None:
    assert deletion.status == "succeeded", deletion.waits_for
    reported = {f: gone["num_objects"] for f, gone in deletion.report["objects"].items()}
    gone = {folder: count - after.get(folder, 0) for folder, count in before.items()}
    assert reported == {folder: count for folder, count in gone.items() if count}


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (
            "run",
            [
                "deletion.claimed",
                "deletion.announced",
                "deletion.published_noted",
                *OBJECTS,
                *SHARDS,
                "deletion.rows_deleted",
                "deletion.reported",
            ],
        ),
        (
            "dataset",
            [
                *SHARDS,
                "deletion.batch_noted",
                "deletion.files_deleted",
                "deletion.rows_deleted",
                "deletion.reported",
            ],
        ),
        (
            "tenant",
            ["deletion.rows_deleted", *OBJECTS, "deletion.rows_deleted", "deletion.reported"],
        ),
    ],
)
def test_a_deletion_whose_processes_are_killed_at_each_point_goes_on(
    ada: Deleting, kind: str, points: Sequence[str]
) -> None:
    run_id = ada.finished_run(0, 1)
    (dataset_id,) = ada.db.run(run_id).datasets.values()
    unshared = upload_key(ada.db.tenant_id, "a" * 64)
    before, rows = counted(ada), ada.tables_with_rows()
    asked = {
        "run": lambda: ada.delete_run(run_id),
        "dataset": lambda: ada.delete_dataset(dataset_id),
        "tenant": ada.delete_tenant,
    }
    deletion = asked[kind]()
    ada.nobody_writes_any_more()

    for point in points:
        work_until_killed(ada, point)

    ended = ada.work(deletion)
    assert_all_counted(ended, before, counted(ada))
    left = ada.tables_with_rows()
    for table, count in ended.report["rows"].items():
        if table not in ("audit_events", "deletions"):
            assert count == rows[table] - left.get(table, 0), table
    assert (ada.objects.size(unshared) is None) == (kind != "run")
    assert ada.tombstone(deletion)["status"] == "succeeded"


def test_two_deleters_share_deletions_and_count_everything_once(ada: Deleting) -> None:
    run_ids = [ada.finished_run(n % 3) for n in range(8)]
    before = counted(ada)
    asked = [ada.delete_run(run_id) for run_id in run_ids]
    ada.nobody_writes_any_more()
    ada.due_now()
    databases = [Database(ada.db.database._url, max_size=2) for _ in range(2)]
    both = [replace(ada, db=replace(ada.db, database=each)).deleter for each in databases]

    with ThreadPoolExecutor(2) as pool:
        turns = sum(pool.map(lambda deleter: deleter.work(), both))
    while ada.deleter.work():
        ada.due_now()
    for database in databases:
        database.close()

    assert turns >= len(asked)
    total: Counter[str] = Counter()
    for deletion in asked:
        ended = ada.now(deletion)
        assert ended.status == "succeeded"
        total.update({f: gone["num_objects"] for f, gone in ended.report["objects"].items()})
    assert total["runs"] == before["runs"] == 8 * 6
    assert total["cache"] == before["cache"] == 6
    assert ada.stored("runs/") == ada.stored("cache/") == set()


class HeldStore(FolderStore):
    """Waits before it deletes anything."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, SIGNER)
        self.is_deleting = threading.Event()
        self.go_on = threading.Event()

    def delete(self, key: str) -> None:
        self.is_deleting.set()
        assert self.go_on.wait(30)
        super().delete(key)


def test_a_deleter_that_was_frozen_changes_nothing_when_it_wakes(
    ada: Deleting, tmp_path: Path
) -> None:
    deletion = ada.delete_run(ada.finished_run(0))
    ada.nobody_writes_any_more()
    held = HeldStore(tmp_path / "objects")
    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(replace(ada, objects=held).deleter.work)
        assert held.is_deleting.wait(30)

        ended = ada.work(deletion)
        assert ended.status == "succeeded"
        held.go_on.set()
        frozen.result(30)
    assert ada.now(deletion) == ended


def test_a_shard_is_never_deleted_under_a_run_that_starts_to_need_it(ada: Deleting) -> None:
    database = Database(ada.db.database._url, max_size=2)
    for number in range(12):
        old = ada.finished_run(number)
        newer = ada.db.queued().run_id
        barrier = threading.Barrier(2)

        def delete(
            number: int = number, old: str = old, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(30)
            remove_shard(database, ada.objects, ada.shard(number), Rule.RUN, old, lease=LEASE)

        def start(
            number: int = number, newer: str = newer, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(30)
            ada.admit(newer, number)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(delete), pool.submit(start)]:
                future.result()
        stage = ada.db.run(newer).stage
        ((status,),) = ada.ask(
            "SELECT status FROM cache_shards WHERE digest = %s", shard_digest(number)
        )
        stored = len(ada.stored(f"cache/{shard_digest(number)}/"))
        assert (stage, status, stored) in {("capacity", "done", 2), ("caching", "pending", 0)}
    database.close()
