"""Routes that need an API key. Key and scope are checked before the body is read, up to a limit."""

from collections.abc import Callable, Coroutine, Sequence
from email.message import Message
from typing import Any, BinaryIO, Final

from fastapi import Request, Response
from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute
from starlette.status import HTTP_201_CREATED

from services.api.authentication import (
    authenticate,
    authenticate_operator,
    authenticate_worker,
    too_many_requests,
)
from services.api.deprecation import Deprecations
from services.api.errors import UnsupportedMediaTypeError
from services.api.head_routes import HeadRoute
from services.api.json_body import parse_body, unexpected
from services.api.places import Places, RequestPlaces
from services.api.query import check_parameters, query_names, takes_if_match
from services.api.scopes import ADMIN, WORKER_PATH, RouteWithoutScopeError, refusal, scope_of
from services.api.spooled_body import DRAIN_BYTES, spooled_body
from services.api.tracing import traced
from services.api.validators import validated
from services.domain.errors import DomainError, InvalidRequestError
from services.domain.request_rates import RatePolicy

BODY_LIMIT_BYTES: Final = 4 << 20

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_READING: Final = frozenset({"GET", "HEAD"})
EVENT_STREAM: Final = "text/event-stream"


class JsonRequest(Request):
    """A request whose JSON body was already read and validated."""

    parsed: Any = None

    def parse(self, body: BinaryIO, *, is_expected: bool) -> None:
        """Read the body; raises as ``parse_body`` does.

        Where none is expected, an empty object is taken for none: many clients send that.
        """
        self._body = body.read()
        if self._body:
            self.parsed = parse_body(self._body)
        if not is_expected and self.parsed not in (None, {}):
            raise InvalidRequestError(unexpected(self.parsed))

    @property
    def has_body(self) -> bool:
        return bool(self._body)

    async def json(self) -> Any:
        return self.parsed


class KeyRoute(HeadRoute):
    """A route that asks for a key; puts ``fingerprint`` (SHA-256 of the body) into the state.

    Defining it without a scope raises RouteWithoutScopeError.
    """

    reads_body = True
    is_traced = True
    """Whether a request that changes something begins a trace."""
    body_limit_bytes = BODY_LIMIT_BYTES

    async def admit(self, request: Request) -> tuple[str, DomainError | None]:
        """Whose the key is, and why it may not send this request; raises where there is no key."""
        raise NotImplementedError

    def places_of(self, places: RequestPlaces) -> Places:
        """Where the request waits until others of its owner are answered."""
        return places.requests

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        described = self.openapi_extra or {}
        names = query_names(self.dependant, described)
        is_conditional = takes_if_match(self.dependant)
        takes_body = self.body_field is not None or "requestBody" in described
        self.needed = scope_of(self)

        async def answer(request: Request) -> Response:
            if request.method in _READING:
                return validated(request, await handle(request))
            if not self.is_traced:
                return await handle(request)
            return await traced(request, self.path_format, handle)

        async def handle_with_key(request: Request) -> Response:
            checked = JsonRequest(request.scope, request.receive)
            owner, refused = await self.admit(checked)
            checked.state.headers |= self._end_headers(checked)
            try:
                if refused is not None:
                    raise refused
                check_parameters(checked, names, is_conditional=is_conditional)
                if checked.method in _BODY_METHODS:
                    _check_media_type(checked)
            except DomainError:
                await _skip_body(checked)
                raise
            if not self.reads_body:
                return await answer(checked)
            places = self.places_of(checked.app.state.service.places)
            if checked.method not in _BODY_METHODS:
                async with places.one_for(owner):
                    return await answer(checked)
            async with spooled_body(checked, self.body_limit_bytes, owner) as body:
                checked.state.fingerprint = body.fingerprint
                async with places.one_for(owner):
                    await run_in_threadpool(checked.parse, body.file, is_expected=takes_body)
                    return await answer(checked)

        return handle_with_key

    def _end_headers(self, request: Request) -> dict[str, str]:
        """Of an operation that will go away."""
        deprecated: Deprecations = request.app.state.deprecated
        method = "GET" if request.method in _READING else request.method
        end = deprecated.get(f"{method} {self.path_format}")
        return {} if end is None else end.headers()

    def policy_of(self, request: Request) -> RatePolicy:
        """The request rate that the request counts for."""
        if self.status_code == HTTP_201_CREATED:
            return RatePolicy.CREATE
        if asks_for_stream(request):
            return RatePolicy.STREAM
        return RatePolicy.OTHER


class TenantRoute(KeyRoute):
    """For keys of tenants that have its scope; puts ``tenant_id`` and ``actor`` into the state."""

    async def admit(self, request: Request) -> tuple[str, DomainError | None]:
        actor, taken = await authenticate(request, self.policy_of(request))
        return actor.tenant_id, too_many_requests(taken) or refusal(actor, self.needed)


class OperatorRoute(KeyRoute):
    """For keys of operators; puts ``operator`` into the request's state."""

    async def admit(self, request: Request) -> tuple[str, DomainError | None]:
        operator, taken = await authenticate_operator(request, self.policy_of(request))
        return operator.key_id, too_many_requests(taken)

    def places_of(self, places: RequestPlaces) -> Places:
        return places.operators


class WorkerRoute(KeyRoute):
    """For keys of remote workers; puts ``worker`` into the request's state."""

    is_traced = False  # the worker's own spans are part of the run's trace

    async def admit(self, request: Request) -> tuple[str, DomainError | None]:
        worker, taken = await authenticate_worker(request, self.policy_of(request))
        return worker.key_id, too_many_requests(taken)

    def places_of(self, places: RequestPlaces) -> Places:
        return places.workers


class WaitingWorkerRoute(WorkerRoute):
    """Leaves the place among requests to the endpoint, which holds it only while it looks."""

    reads_body = False


class StreamRoute(TenantRoute):
    """Leaves the body and the place among requests to the endpoint."""

    reads_body = False


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Raise RouteWithoutScopeError unless every route under /v1 asks for a key of its kind."""
    for route in iter_route_contexts(routes):
        path = route.path or ""
        kind = _kind_of(path)
        if path.startswith("/v1") and not isinstance(route.original_route, kind):
            raise RouteWithoutScopeError(f"{path} asks for no key: make it a {kind.__name__}")


def _kind_of(path: str) -> type[KeyRoute]:
    if path.startswith(f"{ADMIN}/"):
        return OperatorRoute
    is_workers = path == WORKER_PATH or path.startswith(f"{WORKER_PATH}/")
    return WorkerRoute if is_workers else TenantRoute


def asks_for_stream(request: Request) -> bool:
    """Whether the client accepts server-sent events."""
    return EVENT_STREAM in request.headers.get("accept", "").lower()


async def _skip_body(request: Request) -> None:
    """Read the body, up to a limit, and keep nothing, for the reason that DRAIN_BYTES has."""
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > DRAIN_BYTES:
            break


def _check_media_type(request: Request) -> None:
    """Raise UnsupportedMediaTypeError where a body is compressed, or not declared as JSON."""
    is_chunked = "transfer-encoding" in request.headers
    if not is_chunked and request.headers.get("content-length", "0") == "0":
        return
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Send the body as it is, without Content-Encoding.")
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    declared = header.get_content_type()
    is_patch = request.method == "PATCH" and declared == "application/merge-patch+json"
    if declared != "application/json" and not is_patch:
        raise UnsupportedMediaTypeError("Send the body with Content-Type: application/json.")
