"""/v1/runs/{id}:clone and /v1/runs/{id}/diff: a run again with changes, and what differs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.errors import DatasetRejectedError, InvalidPlanError
from services.api.idempotency import CreatingDep, create_once
from services.api.routing import TenantRoute
from services.api.runs.cloning import changed_request, differences_of
from services.api.runs.creating import insert_run
from services.api.runs.lookup import find_run
from services.api.runs.planning import plan_run
from services.api.runs.shapes import ClonedRun, CloneRequest, RunDiff, RunRequest
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError, QuotaExceededError
from services.store import audit, run_documents
from services.store.database import Connection
from services.store.runs import NewRun

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

Prepared = tuple[NewRun, dict[str, Any], dict[str, Any]]
"""The new run, and request and plan of the run that it is cloned from."""


@router.post(
    "/runs/{run_id}:clone",
    status_code=201,
    response_model=ClonedRun,
    openapi_extra=needs(
        "runs:write", NotFoundError, InvalidPlanError, DatasetRejectedError, QuotaExceededError
    ),
)
def clone_run(
    run_id: RunId,
    body: CloneRequest,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """A new run from the request of another one with changes, and what differs: 201.

    422 lists everything that is wrong; its pointers are into the changed request.
    """

    def prepare() -> Prepared:
        with service.database.transaction(tenant_id) as conn:
            find_run(conn, tenant_id, run_id)
            sent, plan = run_documents.read_request(conn, tenant_id, run_id)
        changed = changed_request(sent, body.changes, RunRequest)
        return plan_run(service, tenant_id, changed, parent_run_id=run_id), sent, plan

    def insert(conn: Connection, prepared: Prepared) -> ClonedRun:
        new, sent, plan = prepared
        run = insert_run(service, conn, tenant_id, new)
        data = {"cloned_from": run_id}
        audit.record(conn, tenant_id, author, "run.created", run.id, data=data)
        diff = differences_of((sent, new.request), (plan, new.plan))
        return ClonedRun(**dict(run), diff=diff)

    return create_once(request, prepare, insert, collection="/v1/runs")


@router.get("/runs/{run_id}/diff", openapi_extra=needs("runs:read", NotFoundError))
def diff_runs(
    run_id: RunId,
    against: Annotated[RunId, Query(description="The run to compare with.")],
    service: ServiceDep,
    tenant_id: TenantDep,
) -> RunDiff:
    """What differs between two runs; 404 where one of them is not the tenant's."""
    with service.database.transaction(tenant_id) as conn:
        for each in (run_id, against):
            find_run(conn, tenant_id, each)
        sent, plan = run_documents.read_request(conn, tenant_id, run_id)
        other_sent, other_plan = run_documents.read_request(conn, tenant_id, against)
    found = differences_of((sent, other_sent), (plan, other_plan))
    return RunDiff(request=found.request, plan=found.plan, before=run_id, after=against)
