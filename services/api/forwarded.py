"""A bound for each client behind a trusted proxy, whose connections say nothing about clients."""

from collections import Counter

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.http.connections import client_of
from services.api.http.heads import CLIENT_FULL, RETRY_AFTER_S
from services.api.problems import problem_response


class ForwardedClients:
    """Bounds the requests that one client has under way; uvicorn put its address in the scope.

    Args:
        most: of one client at once. A client without a proxy has as many connections at most, and
            each of them has one request under way.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope.get("client"):
            await self._app(scope, receive, send)
            return
        client = client_of(scope["client"][0])
        if self._under_way[client] >= self._most:
            refusal = problem_response(
                Request(scope),
                status=CLIENT_FULL.status,
                code=CLIENT_FULL.code,
                detail=CLIENT_FULL.detail,
                retryable=CLIENT_FULL.retryable,
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            await refusal(scope, receive, send)
            return
        self._under_way[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]
