"""A page is bounded by a number of items and by bytes, and no item is lost between pages."""

import pytest

from services.api.paging import Page, page_of
from services.api.shapes import Shape


class Item(Shape):
    text: str


def page(sizes: list[int], limit: int, most_bytes: int) -> Page[Item]:
    return page_of(
        sizes,
        limit,
        lambda size: Item(text="x" * size),
        str,
        most_bytes=most_bytes,
    )


@pytest.mark.parametrize(
    ("sizes", "limit", "shown", "next_cursor"),
    [
        ([], 3, [], None),
        ([1, 2], 3, [1, 2], None),
        ([1, 2, 3], 3, [1, 2, 3], None),
        ([1, 2, 3, 4], 3, [1, 2, 3], "3"),
        ([400, 401, 402], 3, [400, 401], "401"),
        ([2000], 3, [2000], None),  # one item is always shown
        ([2000, 1], 3, [2000], "2000"),
        ([1, 2000, 2], 3, [1], "1"),
    ],
)
def test_a_page_ends_at_its_limits(
    sizes: list[int], limit: int, shown: list[int], next_cursor: str | None
) -> None:
    found = page(sizes, limit, most_bytes=1000)

    assert [len(item.text) for item in found.data] == shown
    assert (found.next_cursor, found.has_more) == (next_cursor, next_cursor is not None)


def test_bytes_are_those_of_the_answer_not_characters() -> None:
    found = page_of([1, 2], 2, lambda _: Item(text="\u5b57" * 300), str, most_bytes=1000)
    assert len(found.data) == 1  # 300 characters are 900 bytes
