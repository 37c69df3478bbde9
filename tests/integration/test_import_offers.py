"""Which imports are offered to cache builders: tenants take turns, and none is offered twice."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

from services.cache_builder.importing import Importer
from services.domain.ledger import Worker
from services.store import import_offers, workers
from tests.support.file_server import File, FileServer
from tests.support.importing import csv_list, seen, started
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until

FIRST = timedelta(seconds=10)


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
