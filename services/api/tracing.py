"""The spans of requests. Each request that changes something begins a trace.

Reading is not traced: a run is polled for hours. Nor is a request without a valid key, or above its
rate, so that strangers cannot fill the receiver.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from services.traces.spans import request_span


async def traced(
    request: Request, route: str, answer: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Answer the request; ``route``: its path, with names in place of ids."""
    state: dict[str, Any] = request.scope["state"]
    with request_span(
        f"{request.method} {route}",
        client_traceparent=request.headers.get("traceparent"),
        request_id=state["request_id"],
    ) as made:
        if "tenant_id" in state:
            made.note(tenant_id=state["tenant_id"])
        if made.trace_id is not None:
            state["logged"] = {"trace_id": made.trace_id}
        try:
            response = await answer(request)
        except Exception as error:
            kind = type(error)
            made.note(code=getattr(kind, "code", kind.__name__))  # the class's: never its message
            raise
        made.note(status_code=response.status_code)
        return response
