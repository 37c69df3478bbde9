"""/v1/batches: several runs in one request, listed, shown, compared, canceled."""

from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.batches.lookup import find_batch
from services.api.batches.planning import PlannedBatch, check_again, plan_rows
from services.api.batches.presenting import batch_shape, comparison_shape, summary_shape
from services.api.batches.reading import read_rows, resolved
from services.api.batches.shapes import Batch, BatchRequest, BatchSummary, Comparison
from services.api.errors import DatasetRejectedError, InvalidPlanError
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.places import Places, RequestPlaces
from services.api.routing import TenantRoute
from services.api.runs.shapes import CancelRequest
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import BatchId
from services.domain.errors import IllegalTransitionError, NotFoundError, QuotaExceededError
from services.store import audit, batches, gpu_classes, quotas, run_control, runs, tenants
from services.store.batches import Batch as BatchRecord
from services.store.database import Connection
from services.store.runs import BatchPlace


class PlanningRoute(TenantRoute):
    """Plans many runs in one request, so that few of its kind are at work at once."""

    def places_of(self, places: RequestPlaces) -> Places:
        return places.batches


router = APIRouter(prefix="/v1", tags=["batches"], route_class=TenantRoute)
_creating: Final = APIRouter(route_class=PlanningRoute)


@_creating.post(
    "/batches",
    status_code=201,
    response_model=Batch,
    openapi_extra=needs("runs:write", InvalidPlanError, DatasetRejectedError, QuotaExceededError),
)
def submit_batch(
    body: BatchRequest,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """Up to 200 runs at once: 201 and the batch, whose ``refused`` has the rows with mistakes.

    422 where every row has one, or the list or the sweep itself is wrong. 403 ``quota_exceeded``
    where the tenant may not have all the good ones; then none is created.
    """

    def prepare() -> PlannedBatch:
        return plan_rows(service, tenant_id, read_rows(body))

    def insert(conn: Connection, planned: PlannedBatch) -> Batch:
        tenants.lock(conn, tenant_id)  # from here on no dataset can be deleted
        found = check_again(conn, tenant_id, planned)
        batch = batches.create(
            conn,
            tenant_id,
            name=body.name,
            sweep=None if body.sweep is None else resolved(body.sweep),
            num_rows=len(found.planned) + len(found.refused),
            refused=[each.as_json() for each in found.refused],
        )
        run_ids = []
        for each in found.planned:
            row = each.row
            place = BatchPlace(batch_id=batch.batch_id, row=row.number, options=row.options)
            run_ids.append(runs.create(conn, tenant_id, replace(each.new, batch=place)).run_id)
        limits = service.settings.quotas
        quotas.check_new_runs(conn, tenant_id, limits, added=len(found.planned))
        shown = _shape_of(conn, batch)
        data = {"runs": run_ids}
        audit.record(conn, tenant_id, author, "batch.created", batch.batch_id, data=data)
        return shown

    return create_once(request, prepare, insert)


router.include_router(_creating)


@router.get("/batches", openapi_extra=needs("runs:read"))
def list_batches(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: After[BatchId] = None
) -> Page[BatchSummary]:
    """Newest first; without their rows, which the batch itself has."""
    cursor = check_cursor(after, "bat")
    with service.database.transaction(tenant_id) as conn:
        rows = batches.list_page(conn, tenant_id, limit + 1, cursor)
        shares = batches.shares(conn, tenant_id, [row.batch_id for row in rows[:limit]])
        currencies = gpu_classes.currencies(conn)
    return page_of(
        rows, limit, lambda row: summary_shape(row, shares, currencies), lambda row: row.batch_id
    )


@router.get("/batches/{batch_id}", openapi_extra=needs("runs:read", NotFoundError))
def get_batch(batch_id: BatchId, service: ServiceDep, tenant_id: TenantDep) -> Batch:
    """404 where there is none, or it is another tenant's."""
    with service.database.transaction(tenant_id) as conn:
        return _shape_of(conn, find_batch(conn, tenant_id, batch_id))


@router.get("/batches/{batch_id}/compare", openapi_extra=needs("runs:read", NotFoundError))
def compare_batch(batch_id: BatchId, service: ServiceDep, tenant_id: TenantDep) -> Comparison:
    """Its runs side by side: which options differ, how far each is, its newest loss, its cost."""
    with service.database.transaction(tenant_id) as conn:
        find_batch(conn, tenant_id, batch_id)
        found = batches.runs_of(conn, tenant_id, batch_id)
        return comparison_shape(batch_id, found, gpu_classes.currencies(conn))


@router.post(
    "/batches/{batch_id}:cancel", status_code=202, openapi_extra=needs("runs:write", NotFoundError)
)
def cancel_batch(
    batch_id: BatchId,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    body: CancelRequest | None = None,
) -> Batch:
    """Cancel all its runs that are not over: 202 and the batch. It may be repeated.

    Runs that train store a checkpoint first, unless ``now`` is true.
    """
    now = body is not None and body.now
    with service.database.transaction(tenant_id) as conn:
        batch = find_batch(conn, tenant_id, batch_id)
        run_ids = batches.runs_not_over(conn, tenant_id, batch_id)
    data = {"batch": batch_id}
    for run_id in run_ids:
        try:
            # One run in each transaction: their holders need the rows, too.
            with service.database.transaction(tenant_id) as conn:
                before = runs.lock(conn, tenant_id, run_id)
                after = run_control.cancel(conn, tenant_id, run_id, now=now)
                if after.version != before.version:  # it was not canceled before
                    audit.record(conn, tenant_id, author, "run.canceled", run_id, data=data)
        except (IllegalTransitionError, NotFoundError):
            pass  # it has ended meanwhile, or was deleted then
    with service.database.transaction(tenant_id) as conn:
        return _shape_of(conn, batch)


def _shape_of(conn: Connection, batch: BatchRecord) -> Batch:
    tenant_id, batch_id = batch.tenant_id, batch.batch_id
    return batch_shape(
        batch,
        batches.runs_of(conn, tenant_id, batch_id),
        batches.shares(conn, tenant_id, [batch_id]),
        gpu_classes.currencies(conn),
    )
