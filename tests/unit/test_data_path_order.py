"""Plans of before go on in the order of samples that they began with, to the last bit.

The numbers were recorded with commit 7778845, which knew one order only.
"""

from typing import Any

import pytest

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.orders import data_digest_of, sampler_of, samples_in_order
from trainer_core.validation.fixed_loss import evaluation_samples

BACKENDS: list[dict[str, Any]] = [
    {"id": "cats", "caption_strategy": "textfile", "repeats": 2, "conditioning_data": "masks"},
    {"id": "dogs", "caption_strategy": "filename", "crop": True, "crop_style": "center"},
    {"id": "held", "caption_strategy": "filename", "dataset_type": "eval"},
    {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
]
SIZES = ((300, 300), (300, 700), (900, 310), (512, 512))

PLAN_DIGEST = "67785358669a4e175d1eb771ad4763a35268a7dedf5bf5e876f503494869901e"
DATA_DIGEST = "e2e0d8a4d0ee1ae86ab250ca2429262072b9f4d0669263dccfee627db2481deb"
BATCHES = {
    0: ((6, 7), (1, 0)),
    1: ((4, 3), (0, 1)),
    2: ((3, 0), (1, 0)),
    3: ((2, 2), (0, 0)),
    4: ((3, 5), (1, 0)),
    5: ((1, 1), (0, 0)),
    19: ((0, 4), (0, 1)),
    1000: ((4, 0), (0, 0)),
    123456789: ((0, 3), (0, 1)),
}
"""Number of the micro-batch → its samples and their captions."""
EVALUATED = [4, 0, 7, 1, 2, 6, 3, 5, 4, 0, 7, 1]
HELD_OUT = [8, 9, 11, 10, 8, 9, 11, 10]


def items() -> list[FileItem]:
    found = []
    for number in range(12):
        width, height = SIZES[number % 4]
        backend = ("cats", "dogs", "held")[number % 3]
        common: dict[str, Any] = {
            "path": f"{number * 7 % 12:02}.png",
            "width_px": width,
            "height_px": height,
        }
        captions = tuple(f"caption {n}" for n in range(1 + number % 2))
        found.append(
            FileItem(backend=backend, sha256=f"{number:064x}", captions=captions, **common)
        )
        if backend == "cats":
            mask = FileItem(backend="masks", sha256=f"{number:063x}a", captions=(), **common)
            found.append(mask)
    return found


@pytest.fixture(scope="module")
def plan() -> Plan:
    """As an earlier version made it: without an order."""
    body = import_small({"train_batch_size": 2, "seed": 11}, backends=BACKENDS).plan
    written = body.model_dump(mode="json")
    del written["identity"]["sample_order"]
    return Plan.model_validate(written)


@pytest.fixture(scope="module")
def index(plan: Plan) -> DataIndex:
    return build_index(plan, items(), TINY_CONFIG)


def test_the_digests_are_those_of_before(plan: Plan, index: DataIndex) -> None:
    assert plan.identity_digest() == PLAN_DIGEST
    assert data_digest_of(plan.identity, index) == DATA_DIGEST


def test_each_micro_batch_is_that_of_before(plan: Plan, index: DataIndex) -> None:
    sampler = sampler_of(plan.identity, index)

    assert sampler.timeline.spans[0].micro_batches == 9
    batches = {i: sampler.micro_batch(i) for i in BATCHES}
    assert {i: (batch.samples, batch.captions) for i, batch in batches.items()} == BATCHES


def test_the_evaluation_samples_are_those_of_before(plan: Plan, index: DataIndex) -> None:
    chosen = evaluation_samples(index, 11, samples_in_order(plan.identity, index))

    assert [each.sample for each in chosen][:12] == EVALUATED
    assert [each.sample for each in chosen][32:40] == HELD_OUT


def test_a_renamed_file_is_other_data_in_the_order_by_names(plan: Plan, index: DataIndex) -> None:
    first = index.samples[0].model_copy(update={"path": "renamed.png"})
    renamed = index.model_copy(update={"samples": (first, *index.samples[1:])})
    today = plan.identity.model_copy(update={"sample_order": 2})

    assert data_digest_of(plan.identity, renamed) != DATA_DIGEST
    assert data_digest_of(today, renamed) == data_digest_of(today, index)
