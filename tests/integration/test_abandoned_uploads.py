"""Uploads that nobody completes expire: they use no quota, and only their own files are deleted."""

import contextlib
import hashlib
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from services.domain.errors import QuotaExceededError
from services.domain.quotas import Quotas
from services.objects.errors import ObjectStoreRefusedError
from services.objects.folder_store import FolderStore
from services.objects.keys import upload_key
from services.objects.signing import UploadPart, UrlSigner
from services.results.abandoned import sweep_abandoned
from services.store import abandoned_uploads, datasets, quotas, restore_guard
from services.store.database import Connection, Database
from services.store.datasets import Dataset, NewFile
from tests.support.runs import TenantDatabase

WEEK = timedelta(days=7)
SIGNER = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
ONE_UPLOAD = Quotas(uploads=1, storage_bytes=30)


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects", SIGNER)


class SlowStore(FolderStore):
    """Takes a second for each deletion."""

    def delete(self, key: str) -> None:
        time.sleep(1)
        super().delete(key)


class LockingStore(FolderStore):
    """Refuses to delete the file of one content."""

    def delete(self, key: str) -> None:
        if key.endswith("a" * 64):
            raise ObjectStoreRefusedError("the object is locked")
        super().delete(key)


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


def create(conn: Connection, tenant_id: str, *contents: str) -> Dataset:
    """A dataset with one file of 10 bytes for each letter, which stands for its content."""
    files = [
        NewFile(path=f"{each}.jpg", media="image", size_bytes=10, sha256=each * 64)
        for each in contents
    ]
    return datasets.create(conn, tenant_id, "photos", files)


def uploaded(
    ada: TenantDatabase, objects: FolderStore, *contents: str, days_ago: float = 8
) -> Dataset:
    """A dataset whose files are stored, as it was left so many days ago."""
    with ada.database.transaction() as conn:
        dataset = create(conn, ada.tenant_id, *contents)
        conn.execute(
            "UPDATE datasets SET updated_at = updated_at - make_interval(hours => %s)"
            " WHERE dataset_id = %s",
            (round(days_ago * 24), dataset.dataset_id),
        )
    for each in contents:
        objects.put_bytes(upload_key(ada.tenant_id, each * 64), each.encode() * 10)
    return dataset


def create_within_quotas(ada: TenantDatabase) -> None:
    with ada.database.transaction() as conn:
        create(conn, ada.tenant_id, "d")
        quotas.check_new_dataset(conn, ada.tenant_id, ONE_UPLOAD, size_bytes=10)


def stored(ada: TenantDatabase, objects: FolderStore) -> set[str]:
    return {key[-1] for key in objects.list_keys(f"tenants/{ada.tenant_id}/uploads/")}


def now(ada: TenantDatabase, dataset: Dataset) -> Dataset:
    with ada.database.transaction() as conn:
        return datasets.get(conn, ada.tenant_id, dataset.dataset_id)


def test_an_abandoned_upload_ends_with_its_own_code_and_frees_the_quotas(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    left = uploaded(ada, objects, "a", "b", "c")
    with pytest.raises(QuotaExceededError):
        create_within_quotas(ada)

    assert sweep_abandoned(ada.database, objects, after=WEEK) == 3

    ended = now(ada, left)
    assert (ended.status, [each["code"] for each in ended.errors]) == (
        "rejected",
        [abandoned_uploads.CODE],
    )
    assert stored(ada, objects) == set()
    create_within_quotas(ada)
    assert sweep_abandoned(ada.database, objects, after=WEEK) == 0


def test_files_that_another_dataset_lists_are_kept(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    uploaded(ada, objects, "a", "b", "c")
    kept = uploaded(ada, objects, "b", days_ago=1)
    neighbour = ada.neighbour()
    uploaded(neighbour, objects, "a", days_ago=1)

    assert sweep_abandoned(ada.database, objects, after=WEEK) == 2

    assert stored(ada, objects) == {"b"}
    assert stored(neighbour, objects) == {"a"}
    assert now(ada, kept).status == "uploading"


def test_files_of_a_dataset_that_is_created_meanwhile_are_kept(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    uploaded(ada, objects, "a", "b")
    with ada.database.transaction() as conn:
        assert abandoned_uploads.expire(conn, after=WEEK, limit=10) == 1
        (dataset,) = abandoned_uploads.abandoned(conn, 10)
        since, contents = abandoned_uploads.unshared(conn, dataset)
        assert sorted(contents) == ["a" * 64, "b" * 64]
    with ada.database.transaction() as conn:
        create(conn, ada.tenant_id, "b")

    with ada.database.transaction() as conn:
        kept = abandoned_uploads.lock_unshared(conn, dataset, contents, since)
        assert list(kept) == ["a" * 64]


def test_the_lock_outlasts_a_slow_deletion(
    ada: TenantDatabase, objects: FolderStore, database_url: str, tmp_path: Path
) -> None:
    uploaded(ada, objects, "a")
    slow = SlowStore(tmp_path / "objects", SIGNER)
    impatient = Database(database_url, max_size=1, idle_timeout=timedelta(seconds=0.5))

    with contextlib.closing(impatient):
        assert sweep_abandoned(impatient, slow, after=WEEK) == 1


def test_a_file_that_cannot_be_deleted_does_not_stop_the_others(
    ada: TenantDatabase, objects: FolderStore, tmp_path: Path
) -> None:
    uploaded(ada, objects, "a", days_ago=9)
    uploaded(ada, objects, "b")
    locking = LockingStore(tmp_path / "objects", SIGNER)

    assert sweep_abandoned(ada.database, locking, after=WEEK) == 1
    assert stored(ada, objects) == {"a"}
    assert sweep_abandoned(ada.database, objects, after=WEEK) == 1


def test_an_upload_that_goes_on_does_not_expire(ada: TenantDatabase, objects: FolderStore) -> None:
    going_on = uploaded(ada, objects, "a")
    with ada.database.transaction() as conn:
        datasets.touch(conn, ada.tenant_id, going_on.dataset_id)
    completed = uploaded(ada, objects, "b")
    with ada.database.transaction() as conn:
        datasets.complete(conn, ada.tenant_id, completed.dataset_id)

    assert sweep_abandoned(ada.database, objects, after=WEEK) == 0
    assert now(ada, going_on).status == "uploading"
    assert now(ada, completed).status == "verifying"


def test_a_run_that_waits_for_an_abandoned_upload_is_due(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    left = uploaded(ada, objects, "a")
    run = ada.queued(datasets={"photos": left.dataset_id})
    ada.due_now(run.run_id)

    sweep_abandoned(ada.database, objects, after=WEEK)

    assert ada.run(run.run_id).ring_after is not None


def test_nothing_expires_in_a_database_that_was_restored(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    left = uploaded(ada, objects, "a")
    with ada.database.transaction() as conn:
        restore_guard.lock_guard(conn)
        restore_guard.declare_restored(conn)

    assert sweep_abandoned(ada.database, objects, after=WEEK) == 0
    assert now(ada, left).status == "uploading"


def test_parts_of_large_files_that_nobody_goes_on_with_are_deleted(
    ada: TenantDatabase, objects: FolderStore, tmp_path: Path
) -> None:
    key = upload_key(ada.tenant_id, "a" * 64)
    upload_id = objects.parts.begin(key)
    objects.parts.receive(
        key,
        UploadPart(upload_id=upload_id, number=1),
        [b"x"],
        size_bytes=1,
        sha256=hashlib.sha256(b"x").hexdigest(),
    )
    sweep_abandoned(ada.database, objects, after=WEEK)
    assert objects.parts.sizes(key, upload_id) == {1: 1}

    (folder,) = (tmp_path / "objects" / ".parts").iterdir()
    os.utime(folder, (0, time.time() - 8 * 24 * 3600))
    sweep_abandoned(ada.database, objects, after=WEEK)
    assert list((tmp_path / "objects" / ".parts").iterdir()) == []
