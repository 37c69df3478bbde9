"""A portion that is fetched again: its builder died, was too slow, or its dataset is deleted."""

import hashlib
import os
import signal
from dataclasses import replace
from datetime import timedelta

import pytest

from services.cache_builder.importing import Importer
from services.domain.quotas import Quotas
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import abandoned_uploads, datasets, deletions, imports
from services.store.database import Database
from services.store.datasets import NewFile
from tests.support.file_server import File, FileServer
from tests.support.importing import FETCH, content, csv_list, rung, seen, served, started
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("point", ["import.taken", "import.declared", "import.stored"])
def test_an_import_goes_on_after_its_builder_was_killed(
    tenant_db: TenantDatabase,
    database_url: str,
    web: FileServer,
    importer: Importer,
    monkeypatch: pytest.MonkeyPatch,
    *,
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
    assert len(content(tenant_db, dataset_id, importer.objects)) == 14
    with tenant_db.database.transaction() as conn:
        row = conn.execute(
            "SELECT size_bytes, (SELECT sum(size_bytes) FROM dataset_files WHERE dataset_id = %s)"
            " FROM datasets WHERE dataset_id = %s",
            (dataset_id, dataset_id),
        ).fetchone()
    assert row is not None
    assert row[0] == row[1]


def test_what_a_portion_stored_that_found_something_else_later_is_deleted(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
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
        importer.objects.put_bytes(upload_key(tenant_db.tenant_id, new.sha256), body)
    web.files["/0.png"] = File(body=picture(0))
    rung(importer, tenant_db, dataset_id)

    def is_stored(number: int) -> bool:
        key = upload_key(tenant_db.tenant_id, sha256_of(picture(number)))
        return importer.objects.size(key) is not None

    assert [number for number in (0, 5, 6, 9) if is_stored(number)] == [0, 9]
    assert len(content(tenant_db, dataset_id, importer.objects)) == 2


def test_what_a_killed_portion_has_named_and_is_gone_since_is_no_part_of_the_dataset(
    tenant_db: TenantDatabase, web: FileServer, importer: Importer
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
    assert len(content(tenant_db, dataset_id, importer.objects)) == 6


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
