"""Failures of an import count in a row."""

from datetime import timedelta

from services.domain.errors import Problem
from services.domain.quotas import Quotas
from services.store import datasets, imports
from services.store.datasets import NewFile
from services.store.imports import Import, Portion
from tests.support.runs import TenantDatabase

PROBLEM = Problem(pointer="", code="unexpected", message="It failed.")
PORTION = Portion(
    files=[NewFile(path="1.png", media="image", size_bytes=9, sha256="0" * 64)],
    facts=[],
    left_out=[],
    position={"row": 1},
    rows_done=1,
    rows_total=2,
)


def taken_after_failures(tenant_db: TenantDatabase, failures: int) -> Import:
    with tenant_db.database.transaction() as conn:
        dataset = datasets.create(conn, tenant_db.tenant_id, "photos", [])
        imports.create(conn, tenant_db.tenant_id, dataset.dataset_id, {}, None)
        conn.execute("UPDATE dataset_imports SET failures = %s", (failures,))
        work = imports.take(conn, tenant_db.tenant_id, dataset.dataset_id)
    assert work is not None
    return work


def state(tenant_db: TenantDatabase, work: Import) -> tuple[str, int]:
    with tenant_db.database.transaction() as conn:
        row = imports.find(conn, work.tenant_id, [work.dataset_id])[work.dataset_id]
    return row.status, row.failures


def test_the_last_failure_in_a_row_ends_the_import(tenant_db: TenantDatabase) -> None:
    work = taken_after_failures(tenant_db, imports.MAX_FAILURES - 1)
    with tenant_db.database.transaction() as conn:
        imports.count_failure(conn, work, PROBLEM)
    assert state(tenant_db, work)[0] == "failed"


def test_a_reason_that_no_database_stores_ends_the_import_too(tenant_db: TenantDatabase) -> None:
    """Messages of the fetching process may quote what strangers wrote."""
    work = taken_after_failures(tenant_db, 0)
    with tenant_db.database.transaction() as conn:
        imports.reject(conn, work, Problem(pointer="", code="unusable", message="a\0b"))
    assert state(tenant_db, work)[0] == "failed"
    with tenant_db.database.transaction() as conn:
        (problem,) = datasets.get(conn, work.tenant_id, work.dataset_id).errors
    assert problem["message"] == "ab"


def test_failures_before_a_portion_that_went_well_do_not_count(tenant_db: TenantDatabase) -> None:
    work = taken_after_failures(tenant_db, imports.MAX_FAILURES - 1)
    with tenant_db.database.transaction() as conn:
        assert imports.declare(conn, work, PORTION, Quotas())
        assert imports.advance(conn, work, PORTION, rules=1) is not None
    with tenant_db.database.transaction() as conn:
        imports.count_failure(conn, work, PROBLEM)  # as it was taken
    assert state(tenant_db, work) == ("importing", 1)


def test_a_turn_that_is_put_off_is_no_failure(tenant_db: TenantDatabase) -> None:
    work = taken_after_failures(tenant_db, 3)
    with tenant_db.database.transaction() as conn:
        imports.postpone(conn, work, after=timedelta(seconds=1))
    assert state(tenant_db, work) == ("importing", 3)
