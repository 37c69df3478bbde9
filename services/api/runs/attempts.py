"""/v1/runs/{run_id}/attempts: the work of each worker on a run."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from services.api.paging import DIGITS, Limit, Page, page_of
from services.api.routing import TenantRoute
from services.api.runs.lookup import find_run
from services.api.runs.presenting import attempt_shape
from services.api.runs.shapes import Attempt
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.store import runs

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

AfterFence = Annotated[
    Annotated[int, Field(ge=0, lt=2**63), DIGITS] | None,
    Query(description="next_cursor: a fence."),
]


@router.get("/runs/{run_id}/attempts", openapi_extra=needs("runs:read", NotFoundError))
def list_attempts(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: AfterFence = None,
) -> Page[Attempt]:
    """Newest first."""
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        rows = runs.attempts(conn, tenant_id, run_id, limit + 1, before_fence=after)
    return page_of(rows[::-1], limit, attempt_shape, lambda row: str(row.fence))
