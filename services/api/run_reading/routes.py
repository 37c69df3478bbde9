"""GET /v1/runs/{run_id}, which may wait for a change. It holds a place only while it reads."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from services.api.routing import StreamRoute
from services.api.run_reading.waiting import Prefer, asked_wait_s, wait_for_change
from services.api.runs.lookup import find_run
from services.api.runs.shapes import Run
from services.api.runs.showing import shown_run
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.domain.states import OVER

router = APIRouter(prefix="/v1", tags=["runs"], route_class=StreamRoute)


@router.get("/runs/{run_id}", openapi_extra=needs("runs:read", NotFoundError))
async def get_run(  # noqa: PLR0917 - a route is called by name
    run_id: RunId,
    request: Request,
    response: Response,
    service: ServiceDep,
    tenant_id: TenantDep,
    prefer: Prefer = None,
) -> Run:
    """404 where there is none, or it is another tenant's.

    With ``Prefer: wait=30`` it answers when the run changes. 429 where the tenant waits for as many
    answers and streams as it may.
    """

    async def read() -> Run:
        async with service.places.requests.one_for(tenant_id):
            return await run_in_threadpool(_read, service, tenant_id, run_id)

    run, wait_s = await read(), asked_wait_s(prefer)
    if wait_s == 0:
        return run
    response.headers["Preference-Applied"] = f"wait={wait_s}"
    if run.status in OVER:
        return run
    with service.events.counted(tenant_id):
        return await wait_for_change(service.events, request, run, read, wait_s)


def _read(service: Service, tenant_id: str, run_id: str) -> Run:
    with service.database.transaction(tenant_id) as conn:
        return shown_run(service, conn, find_run(conn, tenant_id, run_id))
