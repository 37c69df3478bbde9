"""Datasets that the service fetches itself: from lists of addresses and from the Hub."""

import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from services.cache_builder.importing import Importer, PortionSize
from services.domain.ledger import Worker
from services.domain.quotas import Quotas
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import abandoned_uploads, datasets, deletions, import_offers, imports, workers
from services.store.abandoned_uploads import Abandoned
from services.store.database import Database
from services.store.datasets import Dataset, NewFile
from services.store.imports import Import
from services.workers.scratch import Scratch
from tests.support.failing_store import FailingStore, store_in
from tests.support.file_server import File, FileServer
from tests.support.hub import HubServer
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier
from tests.support.waiting import wait_until

LOCAL = (ip_network("127.0.0.0/8"),)
FETCH = (sys.executable, "-m", "trainer_core", "fetch")
SMALL = PortionSize(rows=3)
FIRST = timedelta(seconds=10)


@pytest.fixture(scope="module")
def fetcher() -> Iterator[RequestChild]:
    with RequestChild(FETCH, env=os.environ) as child:
        yield child


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return store_in(tmp_path)


@pytest.fixture
def web() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def importer(
    database: Database, store: FailingStore, fetcher: RequestChild, tmp_path: Path
) -> Iterator[Importer]:
    """Each ring imports one portion of three rows."""
    with Scratch(tmp_path / "scratch", "wrk") as scratch:
        yield Importer(
            database=database,
            objects=store,
            fetcher=fetcher,
            scratch=scratch,
            networks=LOCAL,
            slice_s=0,
            size=SMALL,
            free_bytes=1,
        )


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


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
    tenant_db: TenantDatabase, dataset_id: str, store: FailingStore
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


def test_a_list_becomes_a_dataset_that_is_not_looked_at_again(  # noqa: PLR0917 - fixtures
    tenant_db: TenantDatabase,
    store: FailingStore,
    web: FileServer,
    importer: Importer,
    inspector: RequestChild,
    tmp_path: Path,
) -> None:
    urls = served(web, range(8))
    dataset_id = started(tenant_db, csv_list(urls))
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.status) == ("uploading", "importing")
    assert (state.rows_done, state.rows_total, state.pictures) == (3, 8, 3)
    assert state.fetched_bytes > sum(len(picture(n)) for n in range(3))
    rung(importer, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, dataset.num_files, state.status) == ("verifying", 16, "imported")
    found = content(tenant_db, dataset_id, store)
    pictures = [body for body in found.values() if isinstance(body, bytes)]
    texts = [text for text in found.values() if isinstance(text, str)]
    assert sorted(pictures) == sorted(picture(n) for n in range(8))
    assert sorted(texts) == [f"picture {n}\n" for n in range(8)]
    # What the import has decoded is known: the decoder of verification is not asked.
    with open_verifier(tenant_db.database, store, inspector, tmp_path / "v") as verifier:
        blind = replace(verifier, inspector=RequestChild(("/bin/false",), env={}))
        for _ in range(2):  # one batch, and the end
            blind.answer_ring(tenant_db.tenant_id, dataset_id)
    assert seen(tenant_db, dataset_id)[0].status == "ready"
    assert sorted(web.requests) == sorted(f"/{n}.png" for n in range(8))


def test_dead_links_and_private_addresses_are_left_out_and_named(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    urls = served(web, range(5))
    web.files["/inside.png"] = File(status=302, headers={"Location": "http://10.0.0.1/secret"})
    web.files["/page.png"] = File(body=b"<html>no picture</html>")
    bad = [web.url("/gone.png"), web.url("/inside.png"), web.url("/page.png")]
    dataset_id = started(tenant_db, csv_list([*urls, *bad]))
    rung(importer, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, dataset.errors) == ("verifying", [])
    assert (state.pictures, state.left_out, state.rows_done) == (5, 3, 8)
    named = {each["row"]: each["message"] for each in state.left_out_rows}
    assert set(named) == set(bad)
    assert "the server answers 404" in named[bad[0]]
    assert "has no public address" in named[bad[1]]


def test_a_source_that_is_mostly_unusable_is_rejected_and_not_tried_again(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    urls = [*served(web, range(2)), *(web.url(f"/gone-{n}.png") for n in range(6))]
    dataset_id = started(tenant_db, csv_list(urls))
    rung(importer, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.status) == ("rejected", "failed")
    assert dataset.errors[0]["code"] == "mostly_unusable"
    assert "of 8 rows cannot be used" in dataset.errors[0]["message"]
    asked = len(web.requests)
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    assert len(web.requests) == asked
    with tenant_db.database.transaction() as conn:
        swept = abandoned_uploads.abandoned(conn, 10)
    assert Abandoned(tenant_id=tenant_db.tenant_id, dataset_id=dataset_id) in swept


@pytest.mark.parametrize("point", ["import.taken", "import.declared", "import.stored"])
def test_an_import_goes_on_after_its_builder_was_killed(  # noqa: PLR0917 - fixtures
    tenant_db: TenantDatabase,
    database_url: str,
    store: FailingStore,
    web: FileServer,
    importer: Importer,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    urls = served(web, range(7))
    dataset_id = started(tenant_db, csv_list(urls))
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{point}=kill")
    pid = os.fork()
    if pid == 0:
        own = Database(database_url, max_size=2)
        with RequestChild(FETCH, env=os.environ) as child:
            replace(importer, database=own, fetcher=child).answer_ring(
                tenant_db.tenant_id, dataset_id
            )
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    monkeypatch.delenv("FAULT_AT")
    importer.answer_ring(tenant_db.tenant_id, dataset_id)  # the dead builder's lease holds
    assert seen(tenant_db, dataset_id)[1].rows_done == 3
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE dataset_imports SET lease_until = clock_timestamp()")
    rung(importer, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, dataset.num_files) == ("verifying", 14)
    assert (state.pictures, state.left_out) == (7, 0)
    assert len(content(tenant_db, dataset_id, store)) == 14
    with tenant_db.database.transaction() as conn:
        row = conn.execute(
            "SELECT size_bytes, (SELECT sum(size_bytes) FROM dataset_files WHERE dataset_id = %s)"
            " FROM datasets WHERE dataset_id = %s",
            (dataset_id, dataset_id),
        ).fetchone()
    assert row is not None
    assert row[0] == row[1]


def test_what_a_portion_stored_that_found_something_else_later_is_deleted(
    tenant_db: TenantDatabase, store: FailingStore, web: FileServer, importer: Importer
) -> None:
    """Builders died twice after they had stored a portion, and the picture was another one then."""
    web.files["/9.png"] = File(body=picture(9))
    other = started(tenant_db, csv_list([web.url("/9.png")]))
    rung(importer, tenant_db, other)
    url = web.url("/0.png")
    path = hashlib.sha256(url.encode()).hexdigest()[:32] + ".png"
    dataset_id = started(tenant_db, csv_list([url]))
    for number in (5, 6, 9, 5):
        body = picture(number)
        new = NewFile(path=path, media="image", size_bytes=len(body), sha256=sha256_of(body))
        portion = imports.Portion(
            files=[new], facts=[], left_out=[], position={"row": 1}, rows_done=1, rows_total=1
        )
        with tenant_db.database.transaction() as conn:
            work = imports.take(conn, tenant_db.tenant_id, dataset_id)
            assert work is not None
            assert imports.declare(conn, work, portion, Quotas())
            conn.execute("UPDATE dataset_imports SET lease_until = NULL")
        store.put_bytes(upload_key(tenant_db.tenant_id, new.sha256), body)
    web.files["/0.png"] = File(body=picture(0))
    rung(importer, tenant_db, dataset_id)

    def is_stored(number: int) -> bool:
        key = upload_key(tenant_db.tenant_id, sha256_of(picture(number)))
        return store.size(key) is not None

    assert [number for number in (0, 5, 6, 9) if is_stored(number)] == [0, 9]
    assert len(content(tenant_db, dataset_id, store)) == 2


def test_what_a_killed_portion_has_named_and_is_gone_since_is_no_part_of_the_dataset(
    tenant_db: TenantDatabase, store: FailingStore, web: FileServer, importer: Importer
) -> None:
    urls = served(web, range(3))
    dataset_id = started(tenant_db, csv_list(urls))
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "INSERT INTO dataset_files (dataset_id, tenant_id, path, media, size_bytes, sha256)"
            " VALUES (%s, %s, 'gone.png', 'image', 9, %s)",
            (dataset_id, tenant_db.tenant_id, "0" * 64),
        )
    rung(importer, tenant_db, dataset_id)
    assert len(content(tenant_db, dataset_id, store)) == 6


def test_an_older_builder_writes_nothing_after_another_one_took_over(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    dataset_id = started(tenant_db, csv_list(served(web, range(3))))
    with tenant_db.database.transaction() as conn:
        old = imports.take(conn, tenant_db.tenant_id, dataset_id)
        assert old is not None
        conn.execute("UPDATE dataset_imports SET lease_until = clock_timestamp()")
        new = imports.take(conn, tenant_db.tenant_id, dataset_id)
    assert new is not None
    portion = imports.Portion(
        files=[], facts=[], left_out=[], position={"row": 3}, rows_done=3, rows_total=3
    )
    with tenant_db.database.transaction() as conn:
        assert not imports.declare(conn, old, portion, Quotas())
        assert imports.advance(conn, old, portion, rules=1) is None
        assert not imports.finish(conn, old)
        imports.put_back(conn, old)
    assert seen(tenant_db, dataset_id)[1].position is None
    with tenant_db.database.transaction() as conn:
        assert imports.take(conn, tenant_db.tenant_id, dataset_id) is None  # still leased


def test_a_deleted_dataset_is_not_imported_further(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    dataset_id = started(tenant_db, csv_list(served(web, range(6))))
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    asked = len(web.requests)
    with tenant_db.database.transaction() as conn:
        deletions.delete_dataset(conn, tenant_db.tenant_id, dataset_id)
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    assert len(web.requests) == asked
    with tenant_db.database.transaction() as conn:
        state = imports.find(conn, tenant_db.tenant_id, [dataset_id])[dataset_id]
        due = conn.execute("SELECT ring_after FROM dataset_imports").fetchone()
    assert (state.status, state.rows_done) == ("failed", 3)
    assert due == (None,)


def test_the_same_source_twice_is_the_same_dataset_and_stores_nothing_twice(
    tenant_db: TenantDatabase,
    store: FailingStore,
    web: FileServer,
    importer: Importer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = served(web, range(4))
    first, second = (started(tenant_db, csv_list(urls)) for _ in range(2))
    rung(importer, tenant_db, first)
    put: list[str] = []
    monkeypatch.setattr(store, "put_file", lambda key, path: put.append(key))
    rung(importer, tenant_db, second)
    assert put == []
    digests = {seen(tenant_db, each)[0].digest for each in (first, second)}
    assert len(digests) == 1
    assert None not in digests


def test_a_tenant_over_its_quota_of_storage_is_told(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    dataset_id = started(tenant_db, csv_list(served(web, range(6))))
    small = replace(importer, quotas=Quotas(storage_bytes=5 * len(picture(0))))
    rung(small, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, dataset.errors[0]["code"]) == ("rejected", "quota_exceeded")
    assert state.rows_done == 3


def test_a_network_that_is_down_is_waited_for(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    urls = served(web, range(3))
    files = dict(web.files)
    web.files = {**dict.fromkeys(files, File(status=503)), "/0.png": files["/0.png"]}
    dataset_id = started(tenant_db, csv_list(urls))
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    state = seen(tenant_db, dataset_id)[1]
    assert (state.status, state.rows_done, state.failures) == ("importing", 0, 1)
    web.files = files
    rung(importer, tenant_db, dataset_id)
    assert seen(tenant_db, dataset_id)[1].pictures == 3


def test_a_list_without_the_column_is_told_without_a_path_of_the_builder(
    tenant_db: TenantDatabase, importer: Importer
) -> None:
    dataset_id = started(tenant_db, "a,b\n1,2\n")
    rung(importer, tenant_db, dataset_id)
    message = seen(tenant_db, dataset_id)[0].errors[0]["message"]
    assert message.startswith("It cannot be imported: the list has no column url (csv_url_column)")


def test_files_that_are_kept_make_way_for_a_portion(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    dataset_id = started(tenant_db, csv_list(served(web, range(3))))
    kept = importer.scratch.folder / "import-cache" / "other" / "file"
    kept.parent.mkdir(parents=True)
    with kept.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 512 << 20)
    disk = os.statvfs(kept)
    free_bytes = disk.f_bavail * disk.f_frsize + (256 << 20)
    rung(replace(importer, free_bytes=free_bytes), tenant_db, dataset_id)
    assert seen(tenant_db, dataset_id)[1].pictures == 3
    assert not kept.exists()


def test_files_of_other_sources_are_kept_within_a_bound(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    kept = importer.scratch.folder / "import-cache"
    for name, size_bytes in (("large", 17 << 30), ("small", 1)):
        (kept / name).mkdir(parents=True)
        with (kept / name / "file").open("wb") as file:
            file.truncate(size_bytes)  # without taking disk
    dataset_id = started(tenant_db, csv_list(served(web, range(3))))
    with RequestChild(FETCH, env=os.environ) as child:
        rung(replace(importer, fetcher=child), tenant_db, dataset_id)
    assert seen(tenant_db, dataset_id)[1].pictures == 3
    assert not (kept / "large").exists()


def test_a_file_that_never_fits_on_the_disk_ends_the_import(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    web.files["/large.png"] = File(body=bytes(100_000))
    dataset_id = started(tenant_db, csv_list([web.url("/large.png")]))
    command = ("sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *FETCH)
    with RequestChild(command, env=os.environ) as child:
        small = replace(importer, fetcher=child)
        small.answer_ring(tenant_db.tenant_id, dataset_id)
        assert seen(tenant_db, dataset_id)[1].failures == 1
        with tenant_db.database.transaction() as conn:
            failures = imports.MAX_FAILURES - 1
            conn.execute("UPDATE dataset_imports SET failures = %s", (failures,))
        small.answer_ring(tenant_db.tenant_id, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.status) == ("rejected", "failed")
    assert dataset.errors[0]["code"] == "disk_full"


def test_a_portion_that_ends_after_its_dataset_is_deleted_uses_no_storage(
    tenant_db: TenantDatabase,
) -> None:
    dataset_id = started(tenant_db, csv_list(["https://example.org/1.png"]))
    new = datasets.NewFile(path="1.png", media="image", size_bytes=9, sha256="0" * 64)
    portion = imports.Portion(
        files=[new], facts=[], left_out=[], position={"row": 1}, rows_done=1, rows_total=1
    )
    with tenant_db.database.transaction() as conn:
        work = imports.take(conn, tenant_db.tenant_id, dataset_id)
        assert work is not None
        assert imports.declare(conn, work, portion, Quotas())
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE datasets SET updated_at = updated_at - interval '1 day'")
        assert abandoned_uploads.expire(conn, after=timedelta(hours=1), limit=9) == 0
        deletions.delete_dataset(conn, tenant_db.tenant_id, dataset_id)
    with tenant_db.database.transaction() as conn:
        assert imports.advance(conn, work, portion, rules=1) is None
        assert conn.execute("SELECT size_bytes FROM datasets").fetchone() == (0,)


def test_a_list_at_an_address_is_read_once(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    urls = served(web, range(4))
    listed = csv_list(urls).replace("picture 0", '"two\r\nlines"')
    web.files["/list.csv"] = File(body=b"\xef\xbb\xbf" + listed.encode())
    dataset_id = started(tenant_db, type="csv", csv_file=web.url("/list.csv"))
    importer.answer_ring(tenant_db.tenant_id, dataset_id)
    web.files["/list.csv"] = File(body=csv_list(urls[::-1]).encode())
    rung(importer, tenant_db, dataset_id)
    assert seen(tenant_db, dataset_id)[1].pictures == 4
    assert web.requests.count("/list.csv") == 1


@pytest.fixture
def hub_fetcher(hub_server: HubServer) -> Iterator[RequestChild]:
    with RequestChild((*FETCH, "--hub-endpoint", hub_server.url), env=os.environ) as child:
        yield child


def parquet(numbers: Sequence[int]) -> bytes:
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.png"}, "caption": f"cat {n}"} for n in numbers
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def folder_files(numbers: Sequence[int]) -> dict[str, bytes]:
    lines = [{"file_name": f"{n:02d}.png", "text": f"cat {n}"} for n in numbers]
    return {
        **{f"{n:02d}.png": picture(n) for n in numbers},
        "metadata.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines).encode(),
    }


@pytest.mark.parametrize("layout", ["parquet", "pictures"])
def test_a_dataset_of_the_hub_in_portions_across_its_files(  # noqa: PLR0917 - fixtures
    tenant_db: TenantDatabase,
    store: FailingStore,
    hub_server: HubServer,
    hub_fetcher: RequestChild,
    importer: Importer,
    layout: str,
) -> None:
    parts = {
        f"data/train-{n:05d}-of-00003.parquet": parquet(range(4 * n, 4 * n + 4)) for n in range(3)
    }
    files = parts if layout == "parquet" else folder_files(range(12))
    column = "caption" if layout == "parquet" else "text"
    hub_server.add_dataset("someone/cats", files)
    own = replace(importer, fetcher=hub_fetcher)
    dataset_id = started(
        tenant_db,
        type="huggingface",
        dataset_name="someone/cats",
        split="train[1:11]",
        caption_column=column,
    )
    own.answer_ring(tenant_db.tenant_id, dataset_id)
    # A newer commit does not mix in.
    hub_server.push("someone/cats", {"data/train-00000-of-00003.parquet": parquet([99])})
    rung(own, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.rows_done, state.rows_total) == (
        "verifying",
        10,
        state.rows_total,
    )
    found = content(tenant_db, dataset_id, store)
    assert sorted(b for b in found.values() if isinstance(b, bytes)) == sorted(
        picture(n) for n in range(1, 11)
    )
    texts = {text for text in found.values() if isinstance(text, str)}
    assert texts == {f"cat {n}\n" for n in range(1, 11)}


def test_a_private_dataset_is_refused_with_the_way_out(
    tenant_db: TenantDatabase,
    hub_server: HubServer,
    hub_fetcher: RequestChild,
    importer: Importer,
) -> None:
    hub_server.add_dataset("someone/secret", folder_files([1])).private = True
    dataset_id = started(tenant_db, type="huggingface", dataset_name="someone/secret")
    rung(replace(importer, fetcher=hub_fetcher), tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.status) == ("rejected", "failed")
    assert "reverie datasets push" in dataset.errors[0]["message"]


def test_tenants_take_turns_and_none_has_more_than_two_at_once(
    tenant_db: TenantDatabase,
) -> None:
    bob = tenant_db.neighbour()
    many = [started(tenant_db, csv_list([])) for _ in range(4)]
    own = started(bob, csv_list([]))
    for number in range(6):
        worker = Worker(
            worker_id=f"wrk_{number}", kind="cache_builder", gpu_class="cpu", version="1"
        )
        with tenant_db.database.transaction() as conn:
            workers.register(conn, worker, draining=False, run_id=None)

    def offered() -> list[str]:
        with tenant_db.database.transaction() as conn:
            taken = import_offers.take_offers(conn, offer=FIRST, silence=FIRST)
        return [each.dataset_id for each in taken]

    first = offered()
    assert set(first) == {many[0], many[1], own}
    assert first.index(own) < 2
    assert offered() == []
    with tenant_db.database.transaction() as conn:
        import_offers.withdraw(
            conn, import_offers.ImportOffer(tenant_id=bob.tenant_id, dataset_id=own)
        )
    assert offered() == [own]


def test_a_builder_at_work_leaves_an_import_to_another_one_at_once(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
) -> None:
    web.files["/held.png"] = File(body=picture(0), is_held=True)
    under_way, other = (started(tenant_db, csv_list([web.url("/held.png")])) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        ring = pool.submit(importer.answer_ring, tenant_db.tenant_id, under_way)
        wait_until(lambda: bool(web.requests), what="a download", deadline_s=30)
        with tenant_db.database.transaction() as conn:
            worker = Worker(worker_id="wrk_1", kind="cache_builder", gpu_class="cpu", version="1")
            workers.register(conn, worker, draining=False, run_id=None)
            workers.register(conn, replace(worker, worker_id="wrk_2"), draining=False, run_id=None)
        for _ in range(2):
            with tenant_db.database.transaction() as conn:
                offers = import_offers.take_offers(conn, offer=FIRST, silence=FIRST)
            assert [each.dataset_id for each in offers] == [other]
            importer.answer_ring(tenant_db.tenant_id, other)
        web.released.set()
        ring.result()
    assert seen(tenant_db, under_way)[1].status == "imported"
