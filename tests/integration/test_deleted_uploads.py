"""Deleting a dataset ends its uploads in parts at once, in the folder and in S3 (Ceph RGW)."""

import hashlib
from pathlib import Path

import httpx
import pytest

from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.store import datasets
from services.store.database import Database
from services.store.datasets import NewFile
from tests.support.deletions import Deleting
from tests.support.runs import TenantDatabase

OWN, SHARED = "a" * 64, "b" * 64
PART = b"the first part"


@pytest.fixture
def ada(database: Database, store: ObjectStore, tmp_path: Path) -> Deleting:
    return Deleting(db=TenantDatabase.new(database), objects=store, folder=tmp_path)


def dataset(ada: Deleting, *contents: str) -> str:
    """A dataset of such files, none of which is stored."""
    files = [
        NewFile(path=f"{sha256[0]}.jpg", media="image", size_bytes=9 << 20, sha256=sha256)
        for sha256 in contents
    ]
    with ada.db.database.transaction() as conn:
        return datasets.create(conn, ada.db.tenant_id, "photos", files).dataset_id


def begin(ada: Deleting, sha256: str) -> tuple[str, str, httpx.Request]:
    """An upload with one part: its key, its id, and the request that sent the part."""
    key = upload_key(ada.db.tenant_id, sha256)
    upload_id = ada.objects.parts.begin(key)
    signed = ada.objects.parts.sign(
        key,
        upload_id,
        1,
        size_bytes=len(PART),
        sha256=hashlib.sha256(PART).hexdigest(),
        expires_s=600,
    )
    request = httpx.Request("PUT", signed.url, headers=signed.headers, content=PART)
    assert send(request) == 200
    return key, upload_id, request


def send(request: httpx.Request) -> int:
    with httpx.Client(timeout=30) as client:
        return client.send(request).status_code


def test_uploads_in_parts_end_with_the_first_turn_and_others_go_on(ada: Deleting) -> None:
    deleted, other = dataset(ada, OWN, SHARED), dataset(ada, SHARED)
    own_key, own_id, request = begin(ada, OWN)
    shared_key, shared_id, _ = begin(ada, SHARED)

    deletion = ada.work(ada.delete_dataset(deleted))
    assert deletion.status == "running"  # its addresses have not expired
    assert ada.objects.parts.keys("tenants/") == {shared_key}
    assert ada.objects.parts.sizes(own_key, own_id) == {}
    assert ada.objects.parts.sizes(shared_key, shared_id) == {1: len(PART)}
    assert deletion.report["uploads_ended"] == 1
    assert send(request) in (400, 403, 404)

    last = ada.work(ada.delete_dataset(other))
    assert ada.objects.parts.keys("tenants/") == set()
    ended = [ada.now(each).report.get("uploads_ended", 0) for each in (deletion, last)]
    assert sum(ended) == 2
    ada.nobody_writes_any_more()
    assert ada.work(last).status == "succeeded"
    assert ada.now(deletion).status == "succeeded"
    assert ada.stored() == set()
