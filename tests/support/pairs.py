"""pytest plugin: the gate has every pair of values of a test's parameters.

All other combinations are for `make test-deep`.

``@pytest.mark.each_pair`` is for a test with three or more ``parametrize``. Combinations without a
new pair of values become ``deep``: only a fault that needs three values at once stays unseen.
"""

from collections import defaultdict
from itertools import combinations
from typing import Any

import pytest

Pair = tuple[tuple[str, str], tuple[str, str]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups: dict[tuple[Any, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("each_pair"):
            groups[item.path, item.originalname].append(item)
    for group in groups.values():
        for item in _without_a_new_pair(group):
            item.add_marker("deep")


def _without_a_new_pair(items: list[pytest.Function]) -> list[pytest.Function]:
    """Those that are left after the ones with the most new pairs are taken, one by one."""
    pairs = {item: _pairs_of(item) for item in items}
    missing = set().union(*pairs.values())
    left = list(items)
    while missing:
        best = max(left, key=lambda item: len(pairs[item] & missing))
        missing -= pairs[best]
        left.remove(best)
    return left


def _pairs_of(item: pytest.Function) -> set[Pair]:
    values = ((name, repr(value)) for name, value in sorted(item.callspec.params.items()))
    return set(combinations(values, 2))
