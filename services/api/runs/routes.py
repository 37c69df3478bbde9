"""/v1/runs: submit, list, download."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import Field

from services.api.auditing import AuthorDep
from services.api.errors import DatasetRejectedError, InvalidPlanError, NoResultError
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import DIGITS, After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.runs.creating import insert_run
from services.api.runs.downloads import files_of
from services.api.runs.filters import METADATA_PARAMETER, RunFilterDep
from services.api.runs.lookup import find_run
from services.api.runs.planning import plan_run
from services.api.runs.presenting import summary_shape
from services.api.runs.shapes import Checkpoint, Result, Run, RunRequest, RunSummary
from services.api.runs.showing import waits
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import RunId, in_utc
from services.domain.errors import NotFoundError, QuotaExceededError
from services.store import audit, gpu_classes, run_documents, run_lists, runs
from services.store.database import Connection
from services.store.runs import NewRun

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

Step = Annotated[
    Annotated[int, Field(ge=0, lt=2**63), DIGITS] | None,
    Query(description="next_cursor: a step."),
]


@router.post(
    "/runs",
    status_code=201,
    response_model=Run,
    openapi_extra=needs("runs:write", InvalidPlanError, DatasetRejectedError, QuotaExceededError),
)
def submit_run(
    body: RunRequest,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """A new run, queued: 201; 422 lists everything that is wrong with the request.

    403 ``quota_exceeded`` where the tenant may have no more runs, or its storage is full.
    """

    def prepare() -> NewRun:
        return plan_run(service, tenant_id, body)

    def insert(conn: Connection, new: NewRun) -> Run:
        run = insert_run(service, conn, tenant_id, new)
        audit.record(conn, tenant_id, author, "run.created", run.id)
        return run

    return create_once(request, prepare, insert)


@router.get("/runs", openapi_extra={**needs("runs:read"), "parameters": [METADATA_PARAMETER]})
def list_runs(
    service: ServiceDep,
    tenant_id: TenantDep,
    only: RunFilterDep,
    limit: Limit = 20,
    after: After[RunId] = None,
) -> Page[RunSummary]:
    """Newest first; without warnings, notices and attempts, which the run itself has."""
    cursor = check_cursor(after, "run")
    with service.database.transaction(tenant_id) as conn:
        rows = run_lists.list_page(conn, tenant_id, limit + 1, cursor, only)
        waiting = waits(service, conn, tenant_id, rows[:limit])
        currencies = gpu_classes.currencies(conn)
    return page_of(
        rows,
        limit,
        lambda row: summary_shape(
            row,
            waiting=waiting.get(row.run_id),
            currency=currencies.get(row.gpu_class),
        ),
        lambda row: row.run_id,
    )


@router.get("/runs/{run_id}/plan", openapi_extra=needs("runs:read", NotFoundError))
def get_plan(run_id: RunId, service: ServiceDep, tenant_id: TenantDep) -> dict[str, Any]:
    """The request, resolved: every default filled in."""
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        return run_documents.read_plan(conn, tenant_id, run_id)


@router.get("/runs/{run_id}/checkpoints", openapi_extra=needs("runs:read", NotFoundError))
def list_checkpoints(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: Step = None,
) -> Page[Checkpoint]:
    """The checkpoints that are stored, newest first, with a link for each file."""
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        rows = runs.checkpoints(conn, tenant_id, run_id, limit + 1, before_step=after)
    return page_of(rows, limit, lambda row: _checkpoint(service, row), lambda row: str(row.step))


@router.get("/runs/{run_id}/result", openapi_extra=needs("runs:read", NotFoundError, NoResultError))
def get_result(run_id: RunId, service: ServiceDep, tenant_id: TenantDep) -> Result:
    """The result, with a link for each file; 404 ``no_result`` until the run succeeded.

    Also where the result is missing or damaged in the object store.
    """
    with service.database.transaction(tenant_id) as conn:
        row = find_run(conn, tenant_id, run_id)
    if row.result_key_prefix is None or row.result_manifest_sha256 is None:
        raise NoResultError(f"The run is {row.status} and has no result.")
    files = files_of(service.objects, row.result_key_prefix, row.result_manifest_sha256)
    if not files:
        raise NoResultError("The run's result is missing or damaged in the object store.")
    return Result(
        run_id=run_id,
        step=row.result_step or row.step,
        size_bytes=row.result_size_bytes or 0,
        manifest_sha256=row.result_manifest_sha256,
        files=files,
    )


def _checkpoint(service: Service, row: runs.Checkpoint) -> Checkpoint:
    return Checkpoint(
        run_id=row.run_id,
        step=row.step,
        size_bytes=row.size_bytes,
        manifest_sha256=row.manifest_sha256,
        files=files_of(service.objects, row.key_prefix, row.manifest_sha256),
        created_at=in_utc(row.created_at),
    )
