"""How addresses are matched: HEAD as GET, and no colon in an id, since an action follows it."""

import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor, register_url_convertor


class _IdConvertor(StringConvertor):
    """A part of a path that ends at a slash or a colon."""

    regex = "[^/:]+"


register_url_convertor("id", _IdConvertor())
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


class HeadRoute(APIRoute):
    """A route whose GET is a HEAD, too (RFC 9110, section 9.3.2); the server leaves the body out.

    ``/runs/{run_id}`` does not match ``/runs/run_1:cancel``, so that a wrong method there is
    answered with 405.
    """

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
            _PARAMETER.sub(r"{\1:id}", path),
            endpoint,
            methods=named | {"HEAD"} if "GET" in named else named,
            **options,
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
