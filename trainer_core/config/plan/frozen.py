"""The base class of every document that is stored as JSON and read again, and its digest."""

import hashlib
import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Item = TypeVar("Item")

Many = Annotated[tuple[Item, ...], Field(strict=False)]
"""A tuple that is stored as a JSON list. Only the list is converted; its items stay strict."""


class Frozen(BaseModel):
    """Immutable, no unknown fields, no silent conversions, finite numbers only.

    ``model_dump(mode="json")`` gives plain JSON and ``model_validate`` takes it back unchanged.
    Errors do not quote what was read: it has prompts and captions, and errors go to logs.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def digest_of(value: JsonValue) -> str:
    """SHA-256 (64 hex digits) of a JSON value in canonical form: sorted keys, no spaces."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()
