"""Routes that need an API key. The key is checked before the body is read, up to a limit."""

import hashlib
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.status import HTTP_201_CREATED

from services.api.authentication import authenticate, too_many_requests
from services.api.errors import BodyTooLargeError, UnsupportedMediaTypeError
from services.api.json_body import parse_body
from services.api.service import Service
from services.api.spooled_body import DRAIN_BYTES
from services.domain.request_rates import RatePolicy

BODY_LIMIT_BYTES: Final = 4 << 20

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
EVENT_STREAM: Final = "text/event-stream"


class JsonRequest(Request):
    """A request whose JSON body was already read and validated."""

    parsed: Any = None

    async def json(self) -> Any:
        return self.parsed


class TenantRoute(APIRoute):
    """Puts ``tenant_id`` and ``fingerprint`` (SHA-256 of the body) into the request's state."""

    reads_body = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_of_tenant(request: Request) -> Response:
            checked = JsonRequest(request.scope, request.receive)
            taken = await authenticate(checked, self._policy_of(checked))
            if not taken.is_allowed:
                await _skip_body(checked)
                raise too_many_requests(taken)
            if not self.reads_body:
                return await handle(checked)
            body = b""
            if checked.method in _BODY_METHODS:
                body = await _read_body(checked, BODY_LIMIT_BYTES)
                checked.state.fingerprint = hashlib.sha256(body).hexdigest()
                if body:
                    check_media_type(checked)
            service: Service = checked.app.state.service
            async with service.places.requests.one_for(taken.tenant_id):
                if body:
                    checked.parsed = await run_in_threadpool(parse_body, body)
                return await handle(checked)

        return handle_of_tenant

    def _policy_of(self, request: Request) -> RatePolicy:
        if self.status_code == HTTP_201_CREATED:
            return RatePolicy.CREATE
        if EVENT_STREAM in request.headers.get("accept", ""):
            return RatePolicy.STREAM
        return RatePolicy.OTHER


class StreamRoute(TenantRoute):
    """Leaves the body and the place among requests to the endpoint."""

    reads_body = False


async def _read_body(request: JsonRequest, limit_bytes: int) -> bytes:
    """The whole body; raises BodyTooLargeError where it is longer than the limit.

    A body that is too long is still read, up to a second limit. Otherwise a client that is still
    sending would see a reset connection instead of the response.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes <= limit_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
            if size_bytes > DRAIN_BYTES:
                break
    if size_bytes > limit_bytes:
        raise BodyTooLargeError(limit_bytes=limit_bytes)
    body = b"".join(chunks)
    request._body = body
    return body


async def _skip_body(request: Request) -> None:
    """Read the body, up to a limit, and keep nothing; for the same reason as in ``_read_body``."""
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > DRAIN_BYTES:
            break


def check_media_type(request: Request) -> None:
    """Raise UnsupportedMediaTypeError where the body is not declared as JSON."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    if header.get_content_type() != "application/json":
        raise UnsupportedMediaTypeError("Send the body with Content-Type: application/json.")
