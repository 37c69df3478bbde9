"""How near a picture is to the training pictures: which of them count, and the number."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.validation.similarity import MOST, compared_entries, similarity

TRAINED: dict[str, Any] = {"id": "photos", "caption_strategy": "textfile"}
HELD_OUT: dict[str, Any] = {**TRAINED, "id": "kept", "dataset_type": "eval"}
PRIOR: dict[str, Any] = {**TRAINED, "id": "prior", "is_regularisation_data": True}


def index_of(plan: Plan, pictures: Iterable[tuple[str, int]], *, folder: str = "") -> DataIndex:
    """``pictures``: of each its backend, and a number that is its SHA-256."""
    items = [
        FileItem(
            backend=backend,
            path=f"{folder}{place}.png",
            sha256=f"{number:064x}",
            width_px=256,
            height_px=256,
            captions=("a photo",),
        )
        for place, (backend, number) in enumerate(pictures)
    ]
    return build_index(plan, items, TINY_CONFIG)


def compared(plan: Plan, index: DataIndex) -> list[int]:
    """The SHA-256 of each picture, as a number."""
    numbers = {}
    for each in index.entries:
        content = each.content.model_dump(mode="json")
        if "sha256" in content:
            numbers[each.digest] = int(content["sha256"], 16)
    return [numbers[digest] for digest in compared_entries(plan.identity, index)]


def test_the_same_few_are_chosen_whatever_the_order_and_the_names() -> None:
    plan = import_small(backends=[TRAINED]).plan
    pictures = [("photos", number) for number in range(3, 3 + 2 * MOST)]

    found = compared(plan, index_of(plan, pictures))

    assert found == list(range(3, 3 + MOST))
    assert compared(plan, index_of(plan, pictures[::-1], folder="other/")) == found


def test_equal_pictures_count_once_and_held_out_ones_not_at_all() -> None:
    plan = import_small(backends=[TRAINED, HELD_OUT]).plan
    index = index_of(plan, [("photos", 5), ("kept", 1), ("photos", 5), ("photos", 2)])

    assert len(index.samples) > 3
    assert compared(plan, index) == [2, 5]


def test_pictures_of_the_base_model_s_own_predictions_count_where_there_are_no_others() -> None:
    both, alone = (import_small(backends=each).plan for each in ([TRAINED, PRIOR], [PRIOR]))

    assert compared(both, index_of(both, [("photos", 5), ("prior", 1)])) == [5]
    assert compared(alone, index_of(alone, [("prior", 4), ("prior", 1)])) == [1, 4]


def test_the_nearest_picture_counts() -> None:
    rows = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0], [-1.0, 0.0]]))

    assert similarity(torch.tensor([1.0, 0.0]), rows) == 1.0
    assert similarity(torch.tensor([0.0, 1.0]), rows) == pytest.approx(0.8)
    assert similarity(torch.tensor([-1.0, 0.0]), rows[:2]) == pytest.approx(-0.6)
