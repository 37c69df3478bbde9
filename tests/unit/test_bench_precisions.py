"""The benchmark of precisions: what its lines say of each pair."""

from typing import Any

import pytest

from benchmarks.precisions import PRECISIONS, comparisons, table

AFTER = {
    "bf16": (0.50, 0.52, 0.54),
    "int8-quanto": (0.51, 0.53, 0.55),
    "fp8": (0.60, 0.61, 0.62),
    "int8": (0.50, 0.52, 0.54),
}


def lines(*, before: float = 1.0) -> list[dict[str, Any]]:
    """As trainings end: in any order."""
    return [
        {"precision": name, "seed": seed, "loss_before": before, "loss_after": losses[seed - 1]}
        for seed in (3, 1, 2)
        for name, losses in AFTER.items()
    ]


def test_a_pair_is_apart_where_its_means_are_further_than_its_seeds() -> None:
    found = {tuple(each["pair"]): each for each in comparisons(lines())}

    assert len(found) == 6
    near, far, equal = (found["bf16", name] for name in ("int8-quanto", "fp8", "int8"))
    assert (near["means_apart"], near["seeds_apart"]) == pytest.approx((0.01, 0.04))
    assert (far["means_apart"], far["seeds_apart"]) == pytest.approx((0.09, 0.03))
    assert far["same_seed_apart"] == pytest.approx(0.10)
    assert near["least_fall"] == pytest.approx(1 - 0.62)
    assert [each["holds"] for each in (near, far, equal)] == [True, False, True]


def test_nothing_holds_where_nothing_was_learned() -> None:
    assert not any(each["holds"] for each in comparisons(lines(before=0.63)))


def test_the_table_has_a_line_of_each_precision() -> None:
    _, _, *rows = table(lines())

    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in PRECISIONS]
    assert rows[0] == "| bf16 | 0.5000 | 0.5200 | 0.5400 | 0.5200 | 0.0400 |"
