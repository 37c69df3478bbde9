"""Base classes and small types of all JSON requests and responses."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

# What follows says in JSON Schema what ``json_body`` and ``is_id`` check, for the OpenAPI document.
_NO_NUL: Final = "^[^\\u0000]*$"
_MOST: Final = 1.7976931348623157e308
_VALUE: Final = {"$ref": "#/components/schemas/JsonValue"}
_ARRAY: Final[dict[str, Any]] = {"type": "array", "items": _VALUE}
_OBJECT: Final[dict[str, Any]] = {
    "type": "object",
    "propertyNames": {"pattern": _NO_NUL},
    "additionalProperties": _VALUE,
}
JSON_VALUE: Final = {
    "description": "JSON without NUL in texts and keys, at most 32 levels deep in a body.",
    "anyOf": [
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": -_MOST, "maximum": _MOST},
        {"type": "string", "pattern": _NO_NUL},
        _ARRAY,
        _OBJECT,
    ],
}
"""The component ``JsonValue``, which the next two types need."""
JsonObject = Annotated[dict[str, Any], WithJsonSchema(_OBJECT)]
JsonArray = Annotated[list[Any], WithJsonSchema(_ARRAY)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)
"""Of an integer as JSON Schema has it: 1.0 is one."""
Text = Annotated[str, Field(json_schema_extra={"pattern": _NO_NUL})]
RunId = Annotated[str, Field(json_schema_extra={"pattern": "^run_[0-9a-f]{32}$"})]
DatasetId = Annotated[str, Field(json_schema_extra={"pattern": "^ds_[0-9a-f]{32}$"})]
PublicationId = Annotated[str, Field(json_schema_extra={"pattern": "^pub_[0-9a-f]{32}$"})]


class Body(BaseModel):
    """Base of request bodies: types are strict and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shape(BaseModel):
    """Base of response bodies. Times are RFC 3339 in UTC, sizes are bytes, ids are opaque text."""

    # What has a default is sent, too.
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class ProblemItem(Shape):
    """One thing wrong with a request."""

    pointer: str
    """JSON Pointer into the body, ``query:name``, ``header:name`` or ``quota:name``, or a file's
    path."""
    code: str
    message: str


class ProblemDocument(Shape):
    """A problem document (RFC 9457) with the extra members code, request_id and errors."""

    type: str
    """``urn:reverie:problem:<code>``."""
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[ProblemItem] = []


class Failure(Shape):
    """Why a run or a publication failed; ``category`` says who can fix it."""

    code: str
    category: Literal["user", "quota", "capacity", "infra", "platform"]
    message: str
    retryable: bool


def known_status(status: str) -> Any:
    """A row's status, typed as Any so that it fits a ``Literal`` field; pydantic validates it."""
    return status


def failure_shape(body: dict[str, Any] | None) -> Failure | None:
    return None if body is None else Failure(**body)


def in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def in_utc_or_none(moment: datetime | None) -> datetime | None:
    return None if moment is None else in_utc(moment)
