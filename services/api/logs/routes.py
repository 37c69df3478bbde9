"""/v1/runs/{run_id}/logs: what the training processes of a run print."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from services.api.events.follow import CountedStream, follow
from services.api.events.permitted import while_permitted
from services.api.logs.presenting import last_lines, piece_shapes
from services.api.logs.shapes import LogPiece
from services.api.logs.stream import LogSource
from services.api.paging import DIGITS, Limit, Page, page_of
from services.api.routing import EVENT_STREAM, TenantRoute, asks_for_stream
from services.api.runs.lookup import find_run
from services.api.scopes import needs
from services.api.service import ActorDep, Service, ServiceDep
from services.api.shapes import RunId
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.store import run_logs

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

Byte = Annotated[int, Field(ge=0, lt=2**62), DIGITS]
AfterByte = Annotated[Byte | None, Query(description="Only what follows this byte: an end_byte.")]
Tail = Annotated[
    Annotated[int, Field(ge=1, le=2000), DIGITS] | None,
    Query(description="Only so many lines, the last ones. Not with after."),
]
LastEventId = Annotated[
    Byte | None, Header(alias="Last-Event-ID", description="Where a stream goes on.")
]


@router.get(
    "/runs/{run_id}/logs",
    response_model=Page[LogPiece],
    responses={
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "The run is over, and nothing follows Last-Event-ID."},
    },
    openapi_extra=needs("runs:read", NotFoundError),
)
async def list_logs(  # noqa: PLR0917 - a route is called by name
    run_id: RunId,
    request: Request,
    service: ServiceDep,
    actor: ActorDep,
    limit: Limit = 20,
    after: AfterByte = None,
    tail: Tail = None,
    last_event_id: LastEventId = None,
) -> Response | Page[LogPiece]:
    """Oldest first: pieces of whole lines, or the last lines.

    With ``Accept: text/event-stream`` they come as they are printed. A stream continues after
    Last-Event-ID, and ends when the run is over. The status is 204 where the client has all of it.
    Of each attempt the first MiB and the newest 3 MiB are kept, also after the run is over.
    """
    tenant_id = actor.tenant_id
    if tail is not None and after is not None:
        message = "Give tail or after, not both: tail is the end of the logs."
        raise InvalidRequestError([Problem(pointer="query:tail", code="refused", message=message)])
    after_byte = last_event_id if last_event_id is not None else after or 0
    if not asks_for_stream(request):
        if tail is None:
            return await run_in_threadpool(
                _logs_page, service, tenant_id, run_id, after_byte, limit
            )
        data = await run_in_threadpool(_last_lines, service, tenant_id, run_id, after_byte, tail)
        return Page(data=data, has_more=False, next_cursor=None)
    if await run_in_threadpool(_has_no_more, service, tenant_id, run_id, after_byte):
        return Response(status_code=204)
    first: list[LogPiece] = []
    if tail is not None and last_event_id is None:
        first = await run_in_threadpool(_last_lines, service, tenant_id, run_id, after_byte, tail)
    start_byte = first[-1].end_byte if first else after_byte
    source = LogSource(service, tenant_id, run_id, start_byte, first)
    read = while_permitted(service, actor, "runs:read", source.read)
    return CountedStream(follow(service.events, run_id, read), service.events, tenant_id)


def _logs_page(
    service: Service, tenant_id: str, run_id: str, after_byte: int, limit: int
) -> Page[LogPiece]:
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        rows = run_logs.page(conn, tenant_id, run_id, after_byte, limit + 1)
    pieces = piece_shapes(rows, after_byte)
    return page_of(pieces, limit, lambda piece: piece, lambda piece: str(piece.end_byte))


def _last_lines(
    service: Service, tenant_id: str, run_id: str, after_byte: int, tail: int
) -> list[LogPiece]:
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        return last_lines(run_logs.newest(conn, tenant_id, run_id, after_byte), tail)


def _has_no_more(service: Service, tenant_id: str, run_id: str, after_byte: int) -> bool:
    """Whether the run is over and nothing follows this byte; raises NotFoundError."""
    with service.database.transaction(tenant_id) as conn:
        row = find_run(conn, tenant_id, run_id)
        return row.is_over and not run_logs.page(conn, tenant_id, run_id, after_byte, 1)
