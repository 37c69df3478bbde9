"""/v1/runs/{run_id}/events: a page of a run's events, or all of them as they happen."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from services.api.events.follow import CountedStream, follow
from services.api.events.permitted import while_permitted
from services.api.events.presenting import event_shape
from services.api.events.shapes import Event
from services.api.events.stream import EventSource
from services.api.paging import DIGITS, Limit, Page, page_of
from services.api.routing import EVENT_STREAM, TenantRoute, asks_for_stream
from services.api.runs.lookup import find_run
from services.api.scopes import needs
from services.api.service import ActorDep, Service, ServiceDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.store import runs

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

Seq = Annotated[int, Field(ge=0, lt=2**63), DIGITS]
EventId = Annotated[Seq | None, Query(description="Events after this id.")]
LastEventId = Annotated[
    Seq | None, Header(alias="Last-Event-ID", description="Where a stream goes on.")
]


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
    actor: ActorDep,
    limit: Limit = 20,
    after: EventId = None,
    last_event_id: LastEventId = None,
) -> Response | Page[Event]:
    """Oldest first: a page, or with ``Accept: text/event-stream`` all of them as they happen.

    A stream continues after Last-Event-ID and ends with the run's last event. The status is 204
    where the client already has that event.
    """
    tenant_id = actor.tenant_id
    after_seq = last_event_id if last_event_id is not None else after or 0
    if not asks_for_stream(request):
        return await run_in_threadpool(_events_page, service, tenant_id, run_id, after_seq, limit)
    if await run_in_threadpool(_has_no_more, service, tenant_id, run_id, after_seq):
        return Response(status_code=204)
    source = EventSource(service, tenant_id, run_id, after_seq)
    read = while_permitted(service, actor, "runs:read", source.read)
    return CountedStream(follow(service.events, run_id, read), service.events, tenant_id)


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
