"""Base classes and small types of all JSON requests and responses."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from services.api.json_body import MOST_NUMBER
from services.domain.visible_text import VISIBLE_PATTERN, is_visible

# What follows says in JSON Schema what ``json_body`` and ``is_id`` check, for the OpenAPI document.
_NO_NUL: Final = "^[^\\u0000]*$"
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
        {"type": "number", "minimum": -MOST_NUMBER, "maximum": MOST_NUMBER},
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


def _visible(name: str) -> str:
    if not is_visible(name):
        words = (
            "A name has no control character (such as a line break or a tab) and no invisible one"
        )
        raise PydanticCustomError("not_visible", words)
    return name


_CHECK_VISIBLE: Final = AfterValidator(_visible)
_Visible = Annotated[str, Field(json_schema_extra={"pattern": VISIBLE_PATTERN})]
Name = Annotated[_Visible, Field(min_length=1, max_length=200), _CHECK_VISIBLE]
"""A name is shown to other people, on terminals too."""
OptionalName = Annotated[_Visible, Field(max_length=200), _CHECK_VISIBLE]
RunId = Annotated[str, Field(json_schema_extra={"pattern": "^run_[0-9a-f]{32}$"})]
DatasetId = Annotated[str, Field(json_schema_extra={"pattern": "^ds_[0-9a-f]{32}$"})]
MemberId = Annotated[str, Field(json_schema_extra={"pattern": "^mem_[0-9a-f]{32}$"})]
KeyId = Annotated[str, Field(json_schema_extra={"pattern": "^key_[0-9a-f]{32}$"})]
WorkerId = Annotated[str, Field(json_schema_extra={"pattern": "^wrk_[0-9a-f]{32}$"})]
TenantId = Annotated[str, Field(json_schema_extra={"pattern": "^ten_[0-9a-f]{32}$"})]
BatchId = Annotated[str, Field(json_schema_extra={"pattern": "^bat_[0-9a-f]{32}$"})]
DeletionId = Annotated[str, Field(json_schema_extra={"pattern": "^del_[0-9a-f]{32}$"})]
PublicationId = Annotated[str, Field(json_schema_extra={"pattern": "^pub_[0-9a-f]{32}$"})]


_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


def _moment(value: Any) -> Any:
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        words = "A time has to be written as in RFC 3339, such as 2030-01-31T12:00:00Z"
        raise PydanticCustomError("not_a_time", words)
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        words = "There is no such day, hour or zone between the years 1 and 9999"
        raise PydanticCustomError("no_such_time", words) from None


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A time in a request, RFC 3339 with its zone."""


def _left_out() -> Any:
    return None


LEFT_OUT: Final[Any] = Field(default_factory=_left_out)
"""Of a field of a PATCH that may be missing but not null; ``model_fields_set`` has those given."""


class Body(BaseModel):
    """Base of request bodies: types are strict and unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class Shape(BaseModel):
    """Base of response bodies. Times are RFC 3339 in UTC, sizes are bytes, ids are opaque text."""

    # What has a default is sent, too.
    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


class ProblemItem(Shape):
    """One thing wrong with a request."""

    pointer: str
    """JSON Pointer into the body, ``query:name``, ``header:name``, ``quota:name`` or
    ``limit:code``, or a file's path."""
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
