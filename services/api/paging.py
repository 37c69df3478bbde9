"""Pages of lists. ``after`` is ``next_cursor`` of the page before; clients send it unchanged."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, Literal, TypeVar

from fastapi import Query

from services.api.shapes import Shape
from services.domain.errors import InvalidRequestError, Problem
from services.domain.ids import Prefix, is_id

R = TypeVar("R")
S = TypeVar("S", bound=Shape)
T = TypeVar("T")

PAGE_BYTES: Final = 256 << 10
"""Of the items of a page; a single item may be longer."""
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page.")]
After = Annotated[T | None, Query(description="next_cursor of the page before.")]


class Page(Shape, Generic[T]):
    """A part of a list; the next one begins at ``?after=<next_cursor>``."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_cursor: str | None


def check_cursor(after: str | None, prefix: Prefix) -> str | None:
    """The cursor, if it can be one; raises InvalidRequestError."""
    if after is not None and not is_id(after, prefix):
        message = "This is not a next_cursor of this list."
        problem = Problem(pointer="query:after", code="bad_value", message=message)
        raise InvalidRequestError([problem])
    return after


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
