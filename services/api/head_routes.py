"""HEAD is answered as GET is, without the body (RFC 9110, section 9.3.2)."""

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute


class HeadRoute(APIRoute):
    """A route whose GET is a HEAD, too; the server leaves the body out."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Collection[str] | None = None,
        **options: Any,
    ) -> None:
        named = set(methods or ["GET"])
        super().__init__(
            path, endpoint, methods=named | {"HEAD"} if "GET" in named else named, **options
        )

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_head(request: Request) -> Response:
            response = await handle(request)
            is_endless = isinstance(response, StreamingResponse)
            return _head_of(response) if is_endless and request.method == "HEAD" else response

        return handle_head


def _head_of(stream: Response) -> Response:
    """The head of a stream, which is not begun."""
    head = Response(status_code=stream.status_code)
    head.raw_headers = stream.raw_headers
    return head
