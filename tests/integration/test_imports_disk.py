"""What an import keeps on the disk of its cache builder, and a disk that is too small."""

import os
from dataclasses import replace

from services.cache_builder.importing import Importer
from services.processes.request_child import RequestChild
from services.store import imports
from tests.support.file_server import File, FileServer
from tests.support.importing import FETCH, csv_list, rung, seen, served, started
from tests.support.runs import TenantDatabase


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
