"""Pages of lists. ``after`` is ``next_cursor`` of the page before; clients send it unchanged."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from services.api.shapes import Shape
from services.domain.errors import InvalidRequestError, Problem
from services.domain.ids import Prefix, is_id

R = TypeVar("R")
S = TypeVar("S", bound=Shape)
T = TypeVar("T")

PAGE_BYTES: Final = 256 << 10
"""Of the items of a page; a single item may be longer."""


def _digits(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value) is None:
        raise PydanticCustomError("int_parsing", "Input should be a whole number in digits")
    return value


DIGITS: Final = BeforeValidator(_digits)
"""Of a number in an address or a header: pydantic alone would take 1_0, 1.0 and spaces, too."""
Limit = Annotated[int, Field(ge=1, le=100), DIGITS, Query(description="Items a page.")]
After = Annotated[T | None, Query(description="next_cursor of the page before.")]


class Page(Shape, Generic[T]):
    """A part of a list; the next one begins at ``?after=<next_cursor>``."""

    # Pydantic gives the docstring to no ``Page[...]``. And it would look for those of the fields in
    # the source again for each, which was a fifth of the time to import the API.
    model_config = ConfigDict(
        json_schema_extra={"description": "A part of a list."}, use_attribute_docstrings=False
    )

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_cursor: str | None = Field(
        description="The next part begins at ``?after=<next_cursor>``; null at the end."
    )


def check_cursor(after: str | None, prefix: Prefix) -> str | None:
    """The cursor, if it can be one; raises InvalidRequestError."""
    return _checked("after", after, prefix, "This is not a next_cursor of this list.")


def check_filter(name: str, value: str | None, prefix: Prefix) -> str | None:
    """The id that a list is filtered by, if it can be one; raises InvalidRequestError."""
    return _checked(name, value, prefix, f"This is not an id that begins with {prefix}_.")


def _checked(name: str, value: str | None, prefix: Prefix, message: str) -> str | None:
    if value is not None and not is_id(value, prefix):
        problem = Problem(pointer=f"query:{name}", code="bad_value", message=message)
        raise InvalidRequestError([problem])
    return value


def page_of(
    rows: Sequence[R],
    limit: int,
    shape: Callable[[R], S],
    cursor: Callable[[R], str],
    *,
    most_bytes: int = PAGE_BYTES,
) -> Page[S]:
    """A page of ``limit`` items, or of fewer where those are longer than ``most_bytes``.

    ``rows`` has one more where another page follows.
    """
    shown: list[S] = []
    size_bytes = 0
    for row in rows[:limit]:
        item = shape(row)
        size_bytes += len(item.model_dump_json().encode())
        if shown and size_bytes > most_bytes:
            break
        shown.append(item)
    has_more = len(rows) > len(shown)
    return Page(
        data=shown,
        has_more=has_more,
        next_cursor=cursor(rows[len(shown) - 1]) if has_more else None,
    )
