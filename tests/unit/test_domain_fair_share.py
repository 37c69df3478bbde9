"""Turns go to the tenant with the smallest use for its weight."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.fair_share import HEAD_START_S, Share, limit_credit, take_turns

HOUR_S = 3600.0


def share(
    tenant_id: str,
    used_s: float = 0,
    *,
    weight: float = 1,
    run_s: float = 60,
    is_waiting: bool = True,
    is_new: bool = False,
) -> Share:
    return Share(
        tenant_id=tenant_id,
        weight=weight,
        used_s=used_s,
        run_s=run_s,
        is_waiting=is_waiting,
        is_new=is_new,
    )


def turns(shares: list[Share], limit: int) -> list[str]:
    return take_turns(shares, limit, lambda tenant_id: tenant_id)


def test_the_least_use_goes_first() -> None:
    assert turns([share("a", 50), share("b", 10), share("c", 30)], 3) == ["b", "c", "a"]


def test_who_has_no_run_to_offer_gets_no_turn() -> None:
    assert turns([share("a", is_waiting=False), share("b", 10)], 2) == ["b", "b"]


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


@pytest.mark.parametrize("weight", [1, 3])
def test_who_comes_back_goes_first_but_not_for_long(weight: float) -> None:
    """Without a limit all of these turns would go to the tenant that was away."""
    line = {each: share(each, 1000 * HOUR_S, run_s=HOUR_S) for each in ("a", "b", "c")}
    line["new"] = share("new", 5, weight=weight, run_s=HOUR_S, is_new=True)
    taken = []
    for _ in range(60):
        limited = limit_credit(list(line.values()), last_use=0)
        (next_id,) = turns(limited, 1)
        taken.append(next_id)
        line = {each.tenant_id: replace(each, is_new=False) for each in limited}
        line[next_id] = replace(line[next_id], used_s=line[next_id].used_s + HOUR_S)
    head_start_runs = HEAD_START_S * weight / HOUR_S
    fair_runs = 60 * weight / (3 + weight)
    assert taken[0] == "new"
    assert taken.count("new") == pytest.approx(fair_runs, abs=head_start_runs + 1)


def test_the_lowest_use_of_the_others_counts_by_weight_and_is_not_changed() -> None:
    others = [
        share("a", 90 * HOUR_S, weight=3),
        share("b", 20 * HOUR_S, weight=0.5, is_waiting=False),
    ]
    new = [share("c", 1, weight=2, is_new=True), share("d", 95 * HOUR_S, is_new=True)]
    limited = limit_credit([*others, *new], last_use=0)
    assert limited[:2] == others
    assert [each.used_s / HOUR_S for each in limited[2:]] == [2 * 29, 95]


def test_where_all_are_new_the_tenant_that_was_charged_last_counts() -> None:
    new = [share("a", is_new=True), share("b", 500 * HOUR_S, is_new=True)]
    assert limit_credit(new, last_use=0) == new
    limited = limit_credit(new, last_use=500 * HOUR_S)
    assert [each.used_s / HOUR_S for each in limited] == [499, 500]
