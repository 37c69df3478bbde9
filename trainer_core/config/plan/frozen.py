"""The base class of every document that is stored as JSON and read again, and its digest."""

import hashlib
import json
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

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


class Sparse(Frozen):
    """A document some of whose fields are left out of its JSON where they have their defaults.

    So documents of before keep their digests, and processes of the version before read new ones.
    """

    left_out: ClassVar[tuple[str, ...]]
    """Names of these fields."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name in self.left_out:
            if name in written and getattr(self, name) == type(self).model_fields[name].default:
                del written[name]
        return written


def digest_of(value: JsonValue) -> str:
    """SHA-256 (64 hex digits) of a JSON value in canonical form: sorted keys, no spaces."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()
