"""Figures of benchmarks.service that are computed, not read."""

import pytest

from benchmarks.service.fairness import share_error
from benchmarks.service.setting import percentile


def test_the_share_error_is_that_of_the_tenant_farthest_from_its_share() -> None:
    equal = [("a", 1.0), ("b", 0.5), ("b", 0.5)]

    assert share_error(equal, ["a", "b"]) == 0
    assert share_error([*equal, ("a", 2.0)], ["a", "b"]) == pytest.approx(0.5)


def test_a_tenant_that_got_nothing_counts() -> None:
    assert share_error([("a", 3.0)], ["a", "b"]) == pytest.approx(1.0)


def test_percentiles_are_milliseconds() -> None:
    assert percentile([0.001 * n for n in range(1, 101)], 0.5) == pytest.approx(50.5)
    assert percentile([0.001 * n for n in range(1, 101)], 0.99) == pytest.approx(100, abs=1)
