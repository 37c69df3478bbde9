"""Cursors of lists. ``after`` is ``next_cursor`` of the page before; clients take it as it is."""

from typing import Annotated

from fastapi import Query

from services.domain.errors import InvalidRequestError, Problem
from services.domain.ids import Prefix, is_id

Limit = Annotated[int, Query(ge=1, le=100, description="Items a page.")]
After = Annotated[str | None, Query(description="next_cursor of the page before.")]


def check_cursor(after: str | None, prefix: Prefix) -> str | None:
    """The cursor, if it can be one; raises InvalidRequestError."""
    if after is not None and not is_id(after, prefix):
        message = "This is not a next_cursor of this list."
        problem = Problem(pointer="query:after", code="bad_value", message=message)
        raise InvalidRequestError([problem])
    return after
