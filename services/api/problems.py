"""Every error as ``application/problem+json`` (RFC 9457); the only place that picks a status."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from services.api import errors as api
from services.api.http.heads import RETRY_AFTER_S
from services.api.pointers import json_pointer
from services.api.problem_list import MAX_PROBLEMS
from services.api.shapes import ProblemDocument
from services.domain import errors as domain
from services.domain.errors import DomainError, Problem
from services.metrics import http as metrics
from services.objects import errors as objects
from services.store.database import DatabaseBusyError, DatabaseDownError
from trainer_core.errors import BaseModelError

log = structlog.get_logger(__name__)

STATUS: Final[dict[type[DomainError], int]] = {
    api.BodyMismatchError: 400,
    api.InvalidJsonError: 400,
    api.RepeatedHeaderError: 400,
    api.UnauthenticatedError: 401,
    api.ScopeMissingError: 403,
    api.SignatureRefusedError: 403,
    api.WrongKeyError: 403,
    domain.QuotaExceededError: 403,
    api.NoPreviewError: 404,
    api.NoResultError: 404,
    domain.NotFoundError: 404,
    domain.DatasetIncompleteError: 409,
    domain.DatasetNotOpenError: 409,
    domain.IdempotencyInFlightError: 409,
    domain.IllegalTransitionError: 409,
    domain.KeyNotActiveError: 409,
    domain.LastOwnerError: 409,
    domain.LeaseLostError: 409,
    domain.LimitReachedError: 409,
    domain.RunOverError: 409,
    domain.StillNeededError: 409,
    domain.WebhookDisabledError: 409,
    api.BodyTooSlowError: 408,
    api.VersionMismatchError: 412,
    api.BodyTooLargeError: 413,
    api.UnsupportedMediaTypeError: 415,
    api.DatasetRejectedError: 422,
    api.InvalidPlanError: 422,
    domain.IdempotencyMismatchError: 422,
    domain.InvalidRequestError: 422,
    api.RateLimitedError: 429,
    api.SecretsOffError: 501,
}
UNAVAILABLE: Final[dict[type[Exception], str]] = {
    DatabaseDownError: "database_unavailable",
    DatabaseBusyError: "database_unavailable",
    objects.ObjectStoreDownError: "object_store_unavailable",
    objects.ObjectStoreRefusedError: "object_store_unavailable",
    BaseModelError: "base_models_unavailable",
}
"""Codes of status 503."""
_RETRYABLE: Final = frozenset(
    {api.BodyTooSlowError, api.RateLimitedError, domain.IdempotencyInFlightError}
)
_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
_MAX_CHARACTERS: Final = 1000
MEDIA_TYPE: Final = "application/problem+json"


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    errors: Sequence[Problem] = (),
    retryable: bool = False,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document; ``errors`` lists everything that is wrong with the request."""
    metrics.problems.labels(code=code).inc()
    body = ProblemDocument(
        type=f"urn:reverie:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        instance=request.url.path,
        code=code,
        request_id=request.state.request_id,
        retryable=retryable,
        errors=[
            {"pointer": _cut(each.pointer), "code": each.code, "message": _cut(each.message)}
            for each in errors[:MAX_PROBLEMS]
        ],
    )
    return JSONResponse(
        body.model_dump(mode="json"), status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def _cut(text: str) -> str:
    """A text that may quote what was sent."""
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def internal_problem(request: Request) -> JSONResponse:
    """500: the answer has only the request's id; the log has the reason under that id."""
    detail = "The service failed unexpectedly; name the request_id when you report it."
    return problem_response(
        request, status=500, code="internal_error", detail=detail, retryable=True
    )


def install_handlers(app: FastAPI) -> None:
    """Answer every known kind of error with a problem document."""
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_shape)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, _on_unavailable)


async def _on_domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    kind = type(error)
    status = next(STATUS[each] for each in kind.__mro__ if each in STATUS)
    problems: tuple[Problem, ...] = getattr(error, "problems", ())
    return problem_response(
        request,
        status=status,
        code=kind.code,
        detail=_detail(error),
        errors=problems,
        retryable=kind in _RETRYABLE,
        headers=_headers(error),
    )


def _headers(error: DomainError) -> dict[str, str]:
    match error:
        case api.UnauthenticatedError():
            return {"WWW-Authenticate": "Bearer"}
        case api.BodyTooSlowError():
            return {"Connection": "close"}  # what follows is the rest of the body
        case api.RateLimitedError():
            return {"Retry-After": str(error.retry_after_s)}
        case _:
            return {}


def _detail(error: DomainError) -> str:
    if isinstance(error, domain.InvalidRequestError):
        number = error.total
        return f"{number} problem{'s' if number != 1 else ''}; see errors."
    return str(error) or (type(error).__doc__ or "").partition("\n")[0]


async def _on_invalid_shape(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [shape_problem(each) for each in error.errors()]
    detail = _detail(domain.InvalidRequestError(found))
    return problem_response(
        request, status=422, code="invalid_request", detail=detail, errors=found
    )


_SHAPE_CODES: Final = {"missing": "missing", "extra_forbidden": "unknown_field"}


def shape_problem(raw: Mapping[str, Any]) -> Problem:
    """A problem from one of pydantic's; the value that was sent is left out: it may be private."""
    where, *inner = raw["loc"]
    if where == "body":
        pointer = json_pointer(inner)
    else:
        pointer = f"{where}:{'.'.join(str(part) for part in inner)}"
    code = _SHAPE_CODES.get(raw["type"], "bad_value")
    return Problem(pointer=pointer, code=code, message=f"{raw['msg']}.")


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
    return problem_response(
        request,
        status=error.status_code,
        code=code,
        detail=str(error.detail),
        headers={**(error.headers or {}), **_allowed(request, error.status_code)},
    )


def _allowed(request: Request, status: int) -> dict[str, str]:
    """All methods of this address; Starlette names only those of the first route that fits."""
    if status != 405:
        return {}
    methods = {
        method
        for route in iter_route_contexts(request.app.routes)
        if compile_path(route.path or "")[0].match(request.scope["path"])
        for method in route.methods or ()
    }
    return {"Allow": ", ".join(sorted(methods))}


async def _on_unavailable(request: Request, error: Exception) -> JSONResponse:
    """503: a server that this one needs does not work; the same request may succeed soon."""
    code = next(UNAVAILABLE[each] for each in type(error).__mro__ if each in UNAVAILABLE)
    log.warning("dependency_unavailable", code=code, reason=str(error))
    return problem_response(
        request,
        status=503,
        code=code,
        detail="A part of the service does not answer; try again in a moment.",
        retryable=True,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
