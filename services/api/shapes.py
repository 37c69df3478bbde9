"""Base classes and small types of all JSON requests and responses."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Base of request bodies: types are strict and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shape(BaseModel):
    """Base of response bodies. Times are RFC 3339 in UTC, sizes are bytes, ids are opaque text."""

    model_config = ConfigDict(frozen=True)


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
