"""Datasets in a database and a folder store, without the API."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from services.cache_builder.verify import Verifier
from services.objects.folder_store import FolderStore
from services.objects.keys import upload_key
from services.objects.signing import UrlSigner
from services.processes.request_child import RequestChild
from services.store import dataset_versions, datasets
from services.store.datasets import Dataset, DatasetFile, NewFile
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier


class CountingStore(FolderStore):
    """A folder store that counts how often each object is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, UrlSigner(api_url="http://localhost", signing_key=b"k" * 32))
        self.read = Counter[str]()

    def get_to(self, key: str, path: Path) -> None:
        self.read[key] += 1
        super().get_to(key, path)


@pytest.fixture
def ada(tenant_db: TenantDatabase) -> TenantDatabase:
    return tenant_db


@pytest.fixture
def counting_store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "objects")


@pytest.fixture
def verifier(
    ada: TenantDatabase, counting_store: CountingStore, inspector: RequestChild, tmp_path: Path
) -> Iterator[Verifier]:
    """Each ring verifies one batch."""
    with open_verifier(ada.database, counting_store, inspector, tmp_path) as verifier:
        yield verifier


def declared(path: str, body: bytes) -> NewFile:
    media = "caption" if path.endswith(".txt") else "image"
    sha256 = hashlib.sha256(body).hexdigest()
    return NewFile(path=path, media=media, size_bytes=len(body), sha256=sha256)


def upload(tenant: TenantDatabase, store: CountingStore, files: Mapping[str, bytes]) -> None:
    for body in files.values():
        key = upload_key(tenant.tenant_id, hashlib.sha256(body).hexdigest())
        store.put_bytes(key, body)


def completed(tenant: TenantDatabase, files: Mapping[str, bytes]) -> str:
    """A dataset of these files whose verification is due."""
    with tenant.database.transaction() as conn:
        listed = [declared(path, body) for path, body in files.items()]
        dataset_id = datasets.create(conn, tenant.tenant_id, "photos", listed).dataset_id
        datasets.complete(conn, tenant.tenant_id, dataset_id)
    return dataset_id


def based_on(tenant: TenantDatabase, base: str, files: Mapping[str, bytes], *removed: str) -> str:
    """A completed dataset with the base's files, too, whose verification is due."""
    with tenant.database.transaction() as conn:
        listed = [declared(path, body) for path, body in files.items()]
        made = datasets.create(conn, tenant.tenant_id, "more", listed, based_on=base).dataset_id
        dataset_versions.take_over(conn, tenant.tenant_id, made, base=base, removed=removed)
        datasets.complete(conn, tenant.tenant_id, made)
    return made


def seen(tenant: TenantDatabase, dataset_id: str) -> Dataset:
    with tenant.database.transaction() as conn:
        return datasets.get(conn, tenant.tenant_id, dataset_id)


def files_in(tenant: TenantDatabase, dataset_id: str) -> list[DatasetFile]:
    with tenant.database.transaction() as conn:
        return datasets.files(conn, tenant.tenant_id, dataset_id)


def verified(verifier: Verifier, tenant: TenantDatabase, dataset_id: str) -> Dataset:
    """The dataset at the end of its verification."""
    while seen(tenant, dataset_id).status == "verifying":
        verifier.answer_ring(tenant.tenant_id, dataset_id)
    return seen(tenant, dataset_id)
