"""Imports in this process: an importer, what it fetches from, and what it has made."""

import os
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from services.cache_builder.importing import Importer, PortionSize
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.processes.request_child import RequestChild
from services.store import datasets, imports
from services.store.database import Database
from services.store.datasets import Dataset
from services.store.imports import Import
from services.workers.scratch import Scratch
from tests.support.file_server import File, FileServer
from tests.support.objects import plain_folder
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase

LOCAL = (ip_network("127.0.0.0/8"),)
FETCH = (sys.executable, "-m", "trainer_core", "fetch")
SMALL = PortionSize(rows=3)


@pytest.fixture(scope="module")
def fetcher() -> Iterator[RequestChild]:
    with RequestChild(FETCH, env=os.environ) as child:
        yield child


@pytest.fixture
def web() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def importer(database: Database, fetcher: RequestChild, tmp_path: Path) -> Iterator[Importer]:
    """Each ring imports one portion of three rows."""
    with Scratch(tmp_path / "scratch", "wrk") as scratch:
        yield Importer(
            database=database,
            objects=plain_folder(tmp_path / "objects"),
            fetcher=fetcher,
            scratch=scratch,
            networks=LOCAL,
            slice_s=0,
            size=SMALL,
            free_bytes=1,
        )


def csv_list(urls: Sequence[str]) -> str:
    return "url,caption\n" + "".join(f"{url},picture {n}\n" for n, url in enumerate(urls))


def served(web: FileServer, numbers: Sequence[int]) -> list[str]:
    """The addresses of pictures of these numbers."""
    for number in numbers:
        web.files[f"/{number}.png"] = File(body=picture(number))
    return [web.url(f"/{number}.png") for number in numbers]


def started(tenant_db: TenantDatabase, list_: str | None = None, **source: Any) -> str:
    """A new dataset that is imported."""
    backend = {"type": "csv", **source} if list_ is not None else source
    with tenant_db.database.transaction() as conn:
        dataset = datasets.create(conn, tenant_db.tenant_id, "photos", [])
        imports.create(conn, tenant_db.tenant_id, dataset.dataset_id, backend, list_)
    return dataset.dataset_id


def seen(tenant_db: TenantDatabase, dataset_id: str) -> tuple[Dataset, Import]:
    with tenant_db.database.transaction() as conn:
        dataset = datasets.get(conn, tenant_db.tenant_id, dataset_id)
        return dataset, imports.find(conn, tenant_db.tenant_id, [dataset_id])[dataset_id]


def rung(importer: Importer, tenant_db: TenantDatabase, dataset_id: str, times: int = 20) -> None:
    """Ring until the import is over, or so often."""
    for _ in range(times):
        importer.answer_ring(tenant_db.tenant_id, dataset_id)
        if seen(tenant_db, dataset_id)[1].status != "importing":
            return


def content(
    tenant_db: TenantDatabase, dataset_id: str, store: ObjectStore
) -> dict[str, bytes | str | None]:
    """Path → the bytes of a picture as they are stored, or the text of captions."""
    with tenant_db.database.transaction() as conn:
        files = datasets.files(conn, tenant_db.tenant_id, dataset_id)
    for file in files:
        assert store.size(upload_key(tenant_db.tenant_id, file.sha256)) == file.size_bytes
    return {
        file.path: file.text
        if file.media == "caption"
        else store.get_bytes(upload_key(tenant_db.tenant_id, file.sha256), limit_bytes=1 << 20)
        for file in files
    }
