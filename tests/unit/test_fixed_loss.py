"""The fixed validation loss and its 64 evaluation samples."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.jobs import demo_plan, photo_items
from trainer_core.base_models.describe import read_base_model
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.validation.fixed_loss import (
    EvaluationSample,
    evaluation_samples,
    measure_fixed_loss,
)


@pytest.fixture(scope="module")
def index(tiny_folder: Path) -> DataIndex:
    base = read_base_model(tiny_folder)
    plan = demo_plan(base, edge_px=128)
    return build_index(plan, photo_items(plan), base.transformer_config)


def test_half_of_the_64_samples_use_held_out_images(index: DataIndex) -> None:
    samples = evaluation_samples(index, 42, range(len(index.samples)))

    assert [sample.i for sample in samples] == list(range(64))
    assert sum(sample.held_out for sample in samples) == 32
    assert all(index.samples[t.sample].held_out is t.held_out for t in samples)
    assert evaluation_samples(index, 42, range(len(index.samples))) == samples
    assert evaluation_samples(index, 43, range(len(index.samples))) != samples
    assert {t.sample for t in samples} == set(range(len(index.samples)))


def test_without_held_out_images_all_are_of_the_training_images(index: DataIndex) -> None:
    training = tuple(sample for sample in index.samples if not sample.held_out)
    only = index.model_copy(update={"samples": training})

    samples = evaluation_samples(only, 42, range(len(only.samples)))

    assert len(samples) == 64
    assert not any(sample.held_out for sample in samples)
    assert (
        measure_fixed_loss(samples, only, _numbers, before_batch=lambda: None).held_out_mean is None
    )


def _numbers(samples: Sequence[EvaluationSample]) -> torch.Tensor:
    return torch.tensor([float(sample.i) for sample in samples])


def test_losses_come_in_the_order_of_the_samples(index: DataIndex) -> None:
    seen: list[Sequence[EvaluationSample]] = []

    def losses(samples: Sequence[EvaluationSample]) -> torch.Tensor:
        seen.append(samples)
        assert not torch.is_grad_enabled()
        return _numbers(samples)

    result = measure_fixed_loss(
        evaluation_samples(index, 42, range(len(index.samples))),
        index,
        losses,
        before_batch=lambda: None,
    )

    assert result.losses == tuple(float(i) for i in range(64))
    assert result.mean == 31.5
    sizes = [
        {(index.samples[t.sample].width_px, index.samples[t.sample].height_px) for t in batch}
        for batch in seen
    ]
    assert all(len(each) == 1 for each in sizes)
    assert len(seen) < 24
