"""The outermost layer of a request: its id, its line in the log, and the last resort."""

import time
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import internal_problem
from services.domain.ids import new_id

log = structlog.get_logger(__name__)

_PROBES: Final = frozenset({"/healthz", "/readyz"})


class RequestEdge:
    """Gives each request an id (``X-Request-Id``), logs it without its query, and turns what
    nobody expected into a 500 without a word about the inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status = new_id("req"), 0
        scope.setdefault("state", {})["request_id"] = request_id
        began_s = time.monotonic()

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marks = [
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message["headers"], *marks]}
            await send(message)

        path = _printable(scope["path"])
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_marked)
            except ClientDisconnect:
                log.info("client_gone", method=scope["method"], path=path)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=path)
                if status == 0:
                    request = Request(scope, receive)
                    await internal_problem(request)(scope, receive, send_marked)
            if scope["path"] not in _PROBES:
                log.info(
                    "request",
                    method=scope["method"],
                    path=path,
                    status=status,
                    tenant_id=scope["state"].get("tenant_id"),
                    duration_s=round(time.monotonic() - began_s, 4),
                )


def _printable(path: str) -> str:
    """A path that may go to a terminal: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)
