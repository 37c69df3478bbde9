"""API keys as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from services.api.shapes import WHOLE, Body, KeyId, MemberId, Moment, Name, Shape
from services.domain.access import Scope

_A_DAY_S: Final = 86_400


class ApiKeyRequest(Body):
    """A new key; what is left out is as in the key that makes it."""

    name: Name
    member_id: MemberId | None = None
    """For whom it acts; only an owner makes keys for others."""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=100)] | None = None
    """At most those of the key that makes it. Null: all that the member's role has, also later."""
    expires_at: Moment | None = None
    """Null: never."""


class RotateRequest(Body):
    """All of it may be left out."""

    grace_s: Annotated[int, Field(ge=0, le=30 * _A_DAY_S), WHOLE] = _A_DAY_S
    """Seconds for which the old key works beside the new one."""
    expires_at: Moment | None = None
    """Of the new key. Null: it lives as long as the old one was made for."""


class ApiKey(Shape):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    member_id: str | None
    """Null for a key of a version without members; it counts as an owner's."""
    scopes: list[str] | None
    """Null: all that the member's role has. Those that the role has not do not count."""
    expires_at: datetime | None
    last_used_at: datetime | None
    """A minute old at most."""
    replaced_by: KeyId | None
    """The key that took its place when it was rotated."""
    links: dict[str, str]
    created_at: datetime


class NewApiKey(ApiKey):
    """A key just made."""

    secret: str | None
    """The key itself, shown this once. Null in a replay of the request: rotate the key then."""
