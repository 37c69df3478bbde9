"""/v1/runs/{run_id}/events: a page of a run's events, or all of them as they happen."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from services.api.events.hub import EventHub
from services.api.events.presenting import event_shape
from services.api.events.shapes import Event
from services.api.events.stream import event_stream
from services.api.paging import Limit, Page, page_of
from services.api.routing import EVENT_STREAM, TenantRoute
from services.api.runs.lookup import find_run
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.store import runs

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

EventId = Annotated[int | None, Query(ge=0, lt=2**63, description="Events after this id.")]
LastEventId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, lt=2**63)]


class _CountedStream(StreamingResponse):
    """Counts among the tenant's open streams from before its first byte to its end."""

    media_type = EVENT_STREAM

    def __init__(self, events: AsyncIterator[str], hub: EventHub, tenant_id: str) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._hub = hub
        self._tenant_id = tenant_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.counted(self._tenant_id):
            await super().__call__(scope, receive, send)


@router.get(
    "/runs/{run_id}/events",
    response_model=Page[Event],
    responses={
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "The run is over, and no event follows Last-Event-ID."},
    },
    openapi_extra=needs("runs:read", NotFoundError),
)
async def list_events(  # noqa: PLR0917 - a route is called by name
    run_id: RunId,
    request: Request,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: EventId = None,
    last_event_id: LastEventId = None,
) -> Response | Page[Event]:
    """Oldest first: a page, or with ``Accept: text/event-stream`` all of them as they happen.

    A stream continues after Last-Event-ID and ends with the run's last event. The status is 204
    where the client already has that event.
    """
    after_seq = last_event_id if last_event_id is not None else after or 0
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return await run_in_threadpool(_events_page, service, tenant_id, run_id, after_seq, limit)
    if await run_in_threadpool(_has_no_more, service, tenant_id, run_id, after_seq):
        return Response(status_code=204)
    events = event_stream(service, tenant_id, run_id, after_seq)
    return _CountedStream(events, service.events, tenant_id)


def _events_page(
    service: Service, tenant_id: str, run_id: str, after_seq: int, limit: int
) -> Page[Event]:
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        rows = runs.events(conn, tenant_id, run_id, after_seq, limit + 1)
    return page_of(rows, limit, event_shape, lambda row: str(row.seq))


def _has_no_more(service: Service, tenant_id: str, run_id: str, after_seq: int) -> bool:
    """Whether the run is over and ``after_seq`` is its last event; raises NotFoundError."""
    with service.database.transaction(tenant_id) as conn:
        row = find_run(conn, tenant_id, run_id)
        return row.is_over and row.event_seq <= after_seq
