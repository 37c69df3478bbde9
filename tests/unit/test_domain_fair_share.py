"""Turns go to the tenant with the smallest use for its weight."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.fair_share import Share, take_turns


def share(tenant_id: str, used_s: float = 0, *, weight: float = 1, run_s: float = 60) -> Share:
    return Share(tenant_id=tenant_id, weight=weight, used_s=used_s, run_s=run_s)


def turns(shares: list[Share], limit: int) -> list[str]:
    return take_turns(shares, limit, lambda tenant_id: tenant_id)


def test_the_least_use_goes_first() -> None:
    assert turns([share("a", 50), share("b", 10), share("c", 30)], 3) == ["b", "c", "a"]


def test_use_counts_by_weight() -> None:
    assert turns([share("a", 100, weight=4), share("b", 50)], 1) == ["a"]


@pytest.mark.parametrize(("used_s", "limit", "of_b"), [(0, 40, 30), (120, 40, 31)])
def test_many_turns_are_shared_by_weight(used_s: float, limit: int, of_b: int) -> None:
    taken = Counter(turns([share("a", used_s), share("b", weight=3)], limit))
    assert taken == {"a": limit - of_b, "b": of_b}


def test_a_tenant_without_further_runs_loses_its_turns() -> None:
    left = {"a": 2, "b": 5}

    def take(tenant_id: str) -> str | None:
        left[tenant_id] -= 1
        return tenant_id if left[tenant_id] >= 0 else None

    assert take_turns([share("a"), share("b")], 10, take) == ["a", "b", "a", "b", "b", "b", "b"]


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0.1, 10), st.floats(1, 1e4)), min_size=1, max_size=6
    ),
    st.integers(1, 40),
)
def test_turns_at_once_are_those_of_single_rounds(
    tenants: list[tuple[float, float, float]], limit: int
) -> None:
    shares = [
        share(str(n), used_s, weight=weight, run_s=run_s)
        for n, (used_s, weight, run_s) in enumerate(tenants)
    ]
    taken = turns(shares, limit)
    least_after = {
        each.tenant_id: (each.used_s + taken.count(each.tenant_id) * each.run_s) / each.weight
        for each in shares
    }
    for each in shares:
        if each.tenant_id in taken:  # before its last turn it was not ahead of any other
            before = least_after[each.tenant_id] - each.run_s / each.weight
            assert before <= min(least_after.values()) * (1 + 1e-9) + 1e-9
