"""The outermost layer of a request: its id, its log line, and the answer to unexpected errors."""

import time
from collections.abc import Iterable
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import internal_problem
from services.domain.ids import new_id
from services.metrics import http as metrics

log = structlog.get_logger(__name__)

_PROBES: Final = frozenset({"/healthz", "/readyz"})


class RequestEdge:
    """Gives each request an id (``X-Request-Id``) and logs it without its query.

    An unexpected error becomes a 500 whose body does not reveal the cause. A client that waits to
    be asked for its body (``Expect``) and is refused instead may send it or not, so the connection
    is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status = new_id("req"), 0
        scope.setdefault("state", {})["request_id"] = request_id
        started_s = time.monotonic()
        is_asked = not any(name == b"expect" for name, _ in scope["headers"])

        async def receive_asked() -> Message:
            nonlocal is_asked
            is_asked = True
            return await receive()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                metrics.observe(scope, status, time.monotonic() - started_s)
                added = [
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *_uncached(message["headers"]),
                    *_noted_headers(scope),
                ]
                if not is_asked:
                    added.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        path = _printable(scope["path"])
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive_asked, send_with_id)
            except ClientDisconnect:
                log.info("client_gone", method=scope["method"], path=path)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=path)
                if status == 0:
                    request = Request(scope, receive)
                    await internal_problem(request)(scope, receive, send_with_id)
            if scope["path"] not in _PROBES:
                log.info(
                    "request",
                    method=scope["method"],
                    path=path,
                    status=status,
                    tenant_id=scope["state"].get("tenant_id"),
                    duration_s=round(time.monotonic() - started_s, 4),
                    **scope["state"].get("logged", {}),
                )


def _uncached(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """``Cache-Control: no-store``, unless the answer says something else itself."""
    is_said = any(name.lower() == b"cache-control" for name, _ in headers)
    return [] if is_said else [(b"cache-control", b"no-store")]


def _noted_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Headers of every answer to this request, also of errors, such as its tenant's rate."""
    found = scope["state"].get("headers", {})
    return [(name.lower().encode(), value.encode()) for name, value in found.items()]


def _printable(path: str) -> str:
    """The path with unprintable characters escaped, since logs go to terminals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)
