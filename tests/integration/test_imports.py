"""Datasets that the service fetches itself from lists of addresses."""

from dataclasses import replace
from pathlib import Path

from services.cache_builder.importing import Importer
from services.domain.quotas import Quotas
from services.processes.request_child import RequestChild
from services.store import abandoned_uploads
from services.store.abandoned_uploads import Abandoned
from tests.support.file_server import File, FileServer
from tests.support.importing import content, csv_list, rung, seen, served, started
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier


def test_a_list_becomes_a_dataset_that_is_not_looked_at_again(
    tenant_db: TenantDatabase,
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
    found = content(tenant_db, dataset_id, importer.objects)
    pictures = [body for body in found.values() if isinstance(body, bytes)]
    texts = [text for text in found.values() if isinstance(text, str)]
    assert sorted(pictures) == sorted(picture(n) for n in range(8))
    assert sorted(texts) == [f"picture {n}\n" for n in range(8)]
    # What the import has decoded is known: the decoder of verification is not asked.
    with open_verifier(tenant_db.database, importer.objects, inspector, tmp_path / "v") as verifier:
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


def test_the_same_source_twice_is_the_same_dataset_and_stores_nothing_twice(
    tenant_db: TenantDatabase,
    web: FileServer,
    importer: Importer,
    tmp_path: Path,
) -> None:
    urls = served(web, range(4))
    first, second = (started(tenant_db, csv_list(urls)) for _ in range(2))
    rung(importer, tenant_db, first)

    def stored() -> dict[Path, int]:
        """When each object was written."""
        files = (each for each in (tmp_path / "objects").rglob("*") if each.is_file())
        return {file: file.stat().st_mtime_ns for file in files}

    before = stored()
    assert before
    rung(importer, tenant_db, second)
    assert stored() == before
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
