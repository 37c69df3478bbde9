"""JSON Merge Patch by RFC 7396's own examples, and what differs between two documents."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.merge_patch import differences, merged


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


def test_only_what_differs_is_listed_by_its_pointer() -> None:
    before = {"config": {"a/b": 1, "same": [1]}, "list": [1, {"x": 1}], "gone": 1}
    after = {"config": {"a/b": 2, "same": [1]}, "list": [1, {"x": 2}], "new": True}
    found = [(each.option, each.before, each.after) for each in differences(before, after)]
    assert found == [
        ("/config/a~1b", 1, 2),
        ("/gone", 1, None),
        ("/list/1/x", 1, 2),
        ("/new", None, True),
    ]


def test_a_long_list_is_one_difference() -> None:
    before, after = list(range(100)), [*range(90), *range(10)]
    (found,) = differences({"modules": before}, {"modules": after})
    assert (found.before, found.after) == ("100 items", "100 items, 10 of them differ")
    assert len(differences({}, {str(n): n for n in range(1000)})) == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=20,
)


@given(JSON, JSON)
def test_equal_documents_differ_in_nothing_and_others_in_something(a: Any, b: Any) -> None:
    assert differences(a, a) == []
    if a != b:
        assert differences(a, b)
