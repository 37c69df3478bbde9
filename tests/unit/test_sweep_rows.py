"""Expansion of sweeps: which rows there are, in which order, and that they are reproducible."""

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.errors import InvalidRequestError
from services.domain.sweep_rows import Row, expand
from services.domain.sweeps import MAX_ROWS, Method, Range, Sweep

NAMES = st.text("abc-._/~", min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
VALUES = st.lists(JSON, min_size=1, max_size=4, unique_by=json.dumps)
ENDS = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9)
RANGES = st.builds(
    lambda ends, scale: Range(low=ends[0], high=ends[1], scale=scale),
    st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] < ends[1]),
    st.just("linear"),
) | st.builds(
    lambda low, factor, is_whole: Range(
        low=math.ceil(low) if is_whole else low,
        high=math.ceil(low * factor) + 1 if is_whole else low * factor,
        scale="log",
    ),
    st.floats(1e-9, 1e6),
    st.floats(1.5, 1e6),
    st.booleans(),
)


PINNED = [
    {"learning_rate": 0.00931706, "rank": 13, "optimizer": "prodigy"},
    {"learning_rate": 0.0024171, "rank": 31, "optimizer": "optimi-lion"},
    {"learning_rate": 0.00142036, "rank": 33, "optimizer": "prodigy"},
]


def values_of(rows: list[Row]) -> list[dict[str, Any]]:
    return [{name: choice.value for name, choice in row.items()} for row in rows]


def problems_of(sweep: Sweep) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequestError) as raised:
        expand(sweep)
    return [(each.pointer, each.message) for each in raised.value.problems]


def test_the_last_option_of_a_grid_changes_fastest() -> None:
    rows = expand(Sweep(method="grid", options={"a": [1, 2], "b": ["x", "y", None]}))

    assert values_of(rows) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
        {"a": 2, "b": None},
    ]
    assert [row["b"].position for row in rows] == [0, 1, 2, 0, 1, 2]


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_a_grid_has_every_combination_once(options: dict[str, list[Any]]) -> None:
    rows = values_of(expand(Sweep(method="grid", options=options)))

    wanted = [dict(zip(options, row, strict=True)) for row in itertools.product(*options.values())]
    assert rows == wanted
    assert len({json.dumps(row) for row in rows}) == len(rows)


def test_zip_takes_the_values_together() -> None:
    rows = expand(Sweep(method="zip", options={"a": [1, 2], "b": [True, True]}))
    assert values_of(rows) == [{"a": 1, "b": True}, {"a": 2, "b": True}]


@given(
    st.dictionaries(NAMES, VALUES | RANGES, min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(0, 2**53 - 1),
)
def test_random_rows_are_different_within_their_ranges_and_the_same_again(
    options: dict[str, Any], num_runs: int, seed: int
) -> None:
    sweep = Sweep(method="random", options=options, num_runs=num_runs, seed=seed)
    try:
        rows = expand(sweep)
    except InvalidRequestError as error:
        (problem,) = error.problems
        assert problem.pointer == "/sweep/num_runs"
        assert "different runs" in problem.message
        return

    assert expand(sweep) == rows
    assert len(rows) == num_runs
    assert len({json.dumps(row) for row in values_of(rows)}) == num_runs
    for row in rows:
        assert list(row) == list(options)
        for name, choice in row.items():
            given_values = options[name]
            if isinstance(given_values, Range):
                assert choice.position is None
                assert given_values.low <= choice.value <= given_values.high  # type: ignore[operator]
                assert isinstance(choice.value, int) or not given_values.is_whole
            else:
                assert given_values[choice.position or 0] is choice.value


def test_random_rows_are_these_in_every_version() -> None:
    options = {
        "learning_rate": Range(low=1e-5, high=1e-2, scale="log"),
        "rank": Range(low=1, high=64, scale="log"),
        "optimizer": ["optimi-lion", "prodigy"],
    }
    rows = expand(Sweep(method="random", options=options, num_runs=3, seed=42))
    assert values_of(rows) == PINNED


def test_more_runs_continue_the_series_and_another_option_changes_nothing() -> None:
    rate = Range(low=0.0, high=1.0)
    few = values_of(expand(Sweep(method="random", options={"a": rate}, num_runs=3, seed=7)))
    more = values_of(expand(Sweep(method="random", options={"a": rate}, num_runs=9, seed=7)))
    both = expand(Sweep(method="random", options={"b": [1, 2], "--a": rate}, num_runs=3, seed=7))

    assert more[:3] == few
    assert [row["--a"].value for row in both] == [row["a"] for row in few]
    assert values_of(expand(Sweep(method="random", options={"a": rate}, num_runs=3))) != few


def test_all_values_of_a_small_range_can_be_drawn() -> None:
    for scale in ("linear", "log"):
        options = {"a": Range(low=1, high=12, scale=scale)}
        rows = values_of(expand(Sweep(method="random", options=options, num_runs=12)))
        assert sorted(row["a"] for row in rows) == list(range(1, 13))


def test_powers_of_ten_are_equally_likely_on_a_log_scale() -> None:
    options = {"a": Range(low=1e-6, high=1.0, scale="log")}
    rows = values_of(expand(Sweep(method="random", options=options, num_runs=MAX_ROWS)))
    below = sum(row["a"] < 1e-3 for row in rows)
    assert 70 < below < 130


def sweep(method: Method, options: dict[str, Any], **facts: Any) -> Sweep:
    return Sweep(method=method, options=options, **facts)


@pytest.mark.parametrize(
    ("wrong", "pointer", "message"),
    [
        (sweep("grid", {}), "/sweep/options", "at least one option"),
        (sweep("grid", {"a": []}), "/sweep/options/a", "a needs at least one value"),
        (sweep("grid", {"a/b": [1, 2, 1]}), "/sweep/options/a~1b/2", "a/b has the value 1 twice"),
        (sweep("grid", {"a": [1, "1", True, 1.0]}), "/sweep/options/a/3", "the value 1 twice"),
        (sweep("random", {"a": [2, 2]}, num_runs=1), "/sweep/options/a/1", "the value 2 twice"),
        (
            sweep("grid", {"a": list(range(15)), "b": list(range(14))}),
            "/sweep/options",
            "The grid has 210 runs, more than 200.",
        ),
        (
            sweep("zip", {"rate": [1, 2, 3], "rank": [1, 2]}),
            "/sweep/options/rank",
            "zip needs as many values of each option: rate has 3, and rank has 2.",
        ),
        (sweep("zip", {"a": [1, 2, 1], "b": [5, 6, 5]}), "/sweep/options", "number 0 and 2"),
        (sweep("zip", {"a": list(range(201))}), "/sweep/options", "201 runs, more than 200"),
        (sweep("grid", {"a": Range(low=1, high=2)}), "/sweep/options/a", "for the method random"),
        (sweep("grid", {"a": [1]}, num_runs=3), "/sweep/num_runs", "grid has no use for it"),
        (sweep("zip", {"a": [1]}, seed=3), "/sweep/seed", "zip has no use for it"),
        (sweep("random", {"a": [1]}), "/sweep/num_runs", "needs num_runs"),
        (
            sweep("random", {"a": [1, 2], "b": Range(low=1, high=3)}, num_runs=7),
            "/sweep/num_runs",
            "The options allow 6 different runs, and num_runs is 7.",
        ),
        (
            sweep("random", {"a": Range(low=1.0, high=1.0000001)}, num_runs=3),
            "/sweep/num_runs",
            "hardly more than",
        ),
        (
            sweep("random", {"a": Range(low=2, high=2)}, num_runs=1),
            "/sweep/options/a",
            "min has to be below max, not 2 and 2.",
        ),
        (
            sweep("random", {"a": Range(low=0, high=1.5, scale="log")}, num_runs=1),
            "/sweep/options/a",
            "With the scale log min has to be above 0, not 0.",
        ),
        (
            sweep("random", {"a": Range(low=0, high=10**400)}, num_runs=1),
            "/sweep/options/a",
            "from -2^53 to 2^53",
        ),
    ],
)
def test_a_wrong_sweep_names_the_place_and_the_way_out(
    wrong: Sweep, pointer: str, message: str
) -> None:
    ((found_pointer, found_message),) = problems_of(wrong)
    assert found_pointer == pointer
    assert message in found_message
