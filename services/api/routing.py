"""Routes that need an API key. The key is checked before the body is read, up to a limit."""

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, BinaryIO, Final

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.status import HTTP_201_CREATED

from services.api.authentication import authenticate, too_many_requests
from services.api.deprecation import Deprecations
from services.api.errors import UnsupportedMediaTypeError
from services.api.head_routes import HeadRoute
from services.api.json_body import parse_body
from services.api.places import RequestPlaces
from services.api.query import check_parameters, query_names
from services.api.spooled_body import DRAIN_BYTES, spooled_body
from services.api.validators import validated
from services.domain.errors import DomainError
from services.domain.request_rates import RatePolicy

BODY_LIMIT_BYTES: Final = 4 << 20

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_READING: Final = frozenset({"GET", "HEAD"})
EVENT_STREAM: Final = "text/event-stream"


class JsonRequest(Request):
    """A request whose JSON body was already read and validated."""

    parsed: Any = None

    def parse(self, body: BinaryIO) -> None:
        """Read the body; raises as ``parse_body`` does."""
        self._body = body.read()
        if self._body:
            self.parsed = parse_body(self._body)

    async def json(self) -> Any:
        return self.parsed


class TenantRoute(HeadRoute):
    """Puts ``tenant_id`` and ``fingerprint`` (SHA-256 of the body) into the request's state."""

    reads_body = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        names = query_names(self.dependant)

        async def answer(request: Request) -> Response:
            response = await handle(request)
            return validated(request, response) if request.method in _READING else response

        async def handle_of_tenant(request: Request) -> Response:
            checked = JsonRequest(request.scope, request.receive)
            taken = await authenticate(checked, self._policy_of(checked))
            checked.state.headers |= self._end_headers(checked)
            try:
                if not taken.is_allowed:
                    raise too_many_requests(taken)
                check_parameters(checked, names)
            except DomainError:
                await _skip_body(checked)
                raise
            if not self.reads_body:
                return await answer(checked)
            places: RequestPlaces = checked.app.state.service.places
            tenant_id = taken.tenant_id
            if checked.method not in _BODY_METHODS:
                async with places.requests.one_for(tenant_id):
                    return await answer(checked)
            async with spooled_body(checked, BODY_LIMIT_BYTES, tenant_id) as body:
                checked.state.fingerprint = body.fingerprint
                if body.size_bytes:
                    check_media_type(checked)
                async with places.requests.one_for(tenant_id):
                    await run_in_threadpool(checked.parse, body.file)
                    return await answer(checked)

        return handle_of_tenant

    def _end_headers(self, request: Request) -> dict[str, str]:
        """Of an operation that will go away."""
        deprecated: Deprecations = request.app.state.deprecated
        method = "GET" if request.method in _READING else request.method
        end = deprecated.get(f"{method} {self.path_format}")
        return {} if end is None else end.headers()

    def _policy_of(self, request: Request) -> RatePolicy:
        if self.status_code == HTTP_201_CREATED:
            return RatePolicy.CREATE
        if EVENT_STREAM in request.headers.get("accept", ""):
            return RatePolicy.STREAM
        return RatePolicy.OTHER


class StreamRoute(TenantRoute):
    """Leaves the body and the place among requests to the endpoint."""

    reads_body = False


async def _skip_body(request: Request) -> None:
    """Read the body, up to a limit, and keep nothing, for the reason that DRAIN_BYTES has."""
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
