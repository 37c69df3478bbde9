"""The OpenAPI document: every route with all statuses and codes that it may answer with."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from services.api import errors as api
from services.api.deprecation import Deprecations
from services.api.documented_headers import (
    OF_ALL,
    OF_CREATED,
    OF_DEPRECATED,
    OF_JSON,
    OF_KEYED,
    OF_LISTS,
    OF_PROBLEMS,
    OF_SUCCESSES,
    header_components,
    headers,
)
from services.api.problems import MEDIA_TYPE, STATUS, UNAVAILABLE
from services.api.scopes import OPERATOR, RAISES, SCOPE
from services.api.shapes import JSON_VALUE, ProblemDocument, Shape
from services.domain import errors as domain
from services.domain.errors import DomainError

DESCRIPTION: Final = (
    "HEAD is answered wherever GET is, without the body. Query parameters that an operation does "
    "not have are refused. docs/reference/http.md says how the requests belong together."
)
Codes = dict[int, list[str]]
"""Status → the codes of its problem documents."""
Json = dict[str, Any]

_METHODS_WITH_BODY: Final = frozenset({"post", "put", "patch"})
_OF_ALL: Final[Codes] = {
    400: ["bad_request"],
    408: ["request_timeout"],
    414: ["uri_too_long"],
    417: ["expectation_failed"],
    429: ["too_many_connections"],
    431: ["headers_too_large"],
    500: ["internal_error"],
    503: ["too_many_connections", *sorted(set(UNAVAILABLE.values()))],
    505: ["http_version"],
}


def openapi_document(
    app: FastAPI, bodies: Sequence[type[BaseModel]], deprecated: Deprecations
) -> Json:
    """The document of an application; it is made once.

    Args:
        bodies: of requests that routes read themselves; they refer to them by name.
        deprecated: operations that will go away.
    """
    if app.openapi_schema is None:
        app.openapi_schema = _document(app, bodies, deprecated)
    return app.openapi_schema


def _document(app: FastAPI, bodies: Sequence[type[BaseModel]], deprecated: Deprecations) -> Json:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate Operation ID")  # of HEAD beside its GET
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
    schemas = document["components"]["schemas"]
    schemas["JsonValue"] = JSON_VALUE
    models: list[type[BaseModel]] = [ProblemDocument, *bodies]
    for model in models:
        mode: JsonSchemaMode = "serialization" if issubclass(model, Shape) else "validation"
        schema = model.model_json_schema(mode=mode, ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    document["components"]["securitySchemes"] = {
        "api_key": {"type": "http", "scheme": "bearer", "bearerFormat": "rv_…"},
        "operator_key": {"type": "http", "scheme": "bearer", "bearerFormat": "rvo_…"},
    }
    shared: Json = {}
    document["components"]["responses"] = shared
    document["components"]["headers"] = header_components()
    for path, item in document["paths"].items():
        item.pop("head", None)
        for method, operation in item.items():
            _complete(operation, shared, method)
            if f"{method.upper()} {path}" in deprecated:
                _announce_end(operation)
    _remove_titles(document["components"]["schemas"])
    _remove_titles(document["paths"])
    return document


def _complete(operation: Json, shared: Json, method: str) -> None:
    """Add what FastAPI does not know of an operation; ``shared`` are responses of several."""
    scope: str | None = operation.get(SCOPE)
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        response["headers"] = headers(OF_ALL if scope is None else OF_SUCCESSES)
    if "201" in responses:
        is_keyed = any(each["name"] == "Idempotency-Key" for each in parameters)
        names = [*OF_CREATED, *(OF_KEYED if is_keyed else ())]
        responses["201"]["headers"] |= headers(names)
    raised = [kind.code for kind in _before_the_route(parameters, method, scope)]
    for status, codes in sorted(_by_status([*raised, *operation.pop(RAISES, [])]).items()):
        responses[str(status)] = _response(status, codes, shared)
    if scope is None:
        return
    operation["security"] = [{"operator_key": []} if scope == OPERATOR else {"api_key": [scope]}]
    if method == "get":
        _add_validators(operation, shared)


def _add_validators(operation: Json, shared: Json) -> None:
    """What ``validators`` adds to answers in JSON: ETag, 304, and the links of a list."""
    responses = operation["responses"]
    content = responses.get("200", {}).get("content", {})
    if "application/json" not in content:
        return
    schema = content["application/json"]["schema"]
    is_list = schema.get("$ref", "").rpartition("/")[2].startswith("Page_")
    names = OF_LISTS if is_list else OF_JSON
    responses["200"]["headers"] |= headers(names, are_required=len(content) == 1)
    responses["304"] = _shared(
        shared,
        "not_modified.list" if is_list else "not_modified",
        {
            "description": "The answer is the one that If-None-Match names.",
            "headers": headers([*OF_SUCCESSES, *names]),
        },
    )
    operation["parameters"].append(_IF_NONE_MATCH)


def _announce_end(operation: Json) -> None:
    operation["deprecated"] = True
    for status, response in operation["responses"].items():
        if status < "300":
            response["headers"] |= headers(OF_DEPRECATED)


def _without_null(schema: Json) -> Json:
    """The schema of a parameter that may be left out: no text stands for null there."""
    given = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**given[0], **rest} if len(given) == 1 else schema


def _before_the_route(
    parameters: list[Json], method: str, scope: str | None
) -> list[type[DomainError]]:
    """Errors of a request that does not reach the function of its route."""
    raised: list[type[DomainError]] = []
    if scope is not None:
        raised += [api.UnauthenticatedError, api.WrongKeyError, api.RateLimitedError]
        raised += [api.RepeatedHeaderError, domain.InvalidRequestError]  # of ``query``
    if scope not in (None, OPERATOR):
        raised.append(api.ScopeMissingError)
    if method in _METHODS_WITH_BODY:
        raised += [api.InvalidJsonError, api.BodyTooLargeError, api.UnsupportedMediaTypeError]
    names = {each["name"] for each in parameters}
    if "Idempotency-Key" in names:
        raised += [domain.IdempotencyInFlightError, domain.IdempotencyMismatchError]
    if "If-Match" in names:
        raised.append(api.VersionMismatchError)
    return raised


_STATUS_OF: Final = {kind.code: status for kind, status in STATUS.items()}


def _by_status(raised: list[str]) -> Codes:
    """These codes and those of every request."""
    codes: defaultdict[int, set[str]] = defaultdict(set)
    for status, always in _OF_ALL.items():
        codes[status].update(always)
    for code in raised:
        codes[_STATUS_OF[code]].add(code)
    return {status: sorted(found) for status, found in codes.items()}


_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETags that you have; 304 where the answer is one of them.",
    "schema": {"type": "string"},
}


def _response(status: int, codes: list[str], shared: Json) -> Json:
    """A problem document (RFC 9457) with one of these codes, as all operations share it."""
    schema = {
        "$ref": "#/components/schemas/ProblemDocument",
        "properties": {"status": {"const": status}, "code": {"enum": codes}},
    }
    names = [*OF_ALL, *([OF_PROBLEMS[status]] if status in OF_PROBLEMS else [])]
    return _shared(
        shared,
        ".".join(codes),
        {
            "description": f"{HTTPStatus(status).phrase}.",
            "headers": headers(names),
            "content": {MEDIA_TYPE: {"schema": schema}},
        },
    )


def _shared(shared: Json, name: str, response: Json) -> Json:
    shared.setdefault(name, response)
    return {"$ref": f"#/components/responses/{name}"}


def _remove_titles(node: Any) -> None:
    """Remove the titles of schemas, which only repeat names."""
    if isinstance(node, list):
        for each in node:
            _remove_titles(each)
    elif isinstance(node, dict):
        if isinstance(node.get("title"), str):  # and not a field of this name
            del node["title"]
        for each in node.values():
            _remove_titles(each)
