"""Whole lists, page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from services.client.shapes import Page

T = TypeVar("T")


def every(list_page: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """All items of a list.

    Args:
        list_page: returns the page after a cursor (None: the first one), such as
            ``lambda after: client.list_runs(limit=100, after=after)``.
    """
    after: str | None = None
    while True:
        page = list_page(after)
        yield from page.data
        after = page.next_cursor
        if not page.has_more or after is None:
            return


async def every_async(list_page: Callable[[str | None], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    """As ``every``, for asyncio."""
    after: str | None = None
    while True:
        page = await list_page(after)
        for item in page.data:
            yield item
        after = page.next_cursor
        if not page.has_more or after is None:
            return
