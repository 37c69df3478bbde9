"""The 64 fixed questions."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.jobs import demo_plan, photo_items
from trainer_core.base_models.describe import read_base_model
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.validation.probe import Triple, measure, probe_triples


@pytest.fixture(scope="module")
def index(tiny_folder: Path) -> DataIndex:
    base = read_base_model(tiny_folder)
    plan = demo_plan(base, edge_px=128)
    return build_index(plan, photo_items(plan), base.transformer_config)


def test_half_of_64_are_held_out(index: DataIndex) -> None:
    triples = probe_triples(index, 42)

    assert [triple.i for triple in triples] == list(range(64))
    assert sum(triple.held_out for triple in triples) == 32
    assert all(index.samples[t.sample].held_out is t.held_out for t in triples)
    assert probe_triples(index, 42) == triples
    assert probe_triples(index, 43) != triples
    assert {t.sample for t in triples} == set(range(len(index.samples)))


def test_without_held_out_images_all_are_of_the_training_images(index: DataIndex) -> None:
    training = tuple(sample for sample in index.samples if not sample.held_out)
    only = index.model_copy(update={"samples": training})

    triples = probe_triples(only, 42)

    assert len(triples) == 64
    assert not any(triple.held_out for triple in triples)
    assert measure(triples, only, _numbers, between=lambda: None).held_out_mean is None


def _numbers(triples: Sequence[Triple]) -> torch.Tensor:
    return torch.tensor([float(triple.i) for triple in triples])


def test_answers_come_in_the_order_of_the_questions(index: DataIndex) -> None:
    seen: list[Sequence[Triple]] = []

    def losses(triples: Sequence[Triple]) -> torch.Tensor:
        seen.append(triples)
        assert not torch.is_grad_enabled()
        return _numbers(triples)

    result = measure(probe_triples(index, 42), index, losses, between=lambda: None)

    assert result.losses == tuple(float(i) for i in range(64))
    assert result.mean == 31.5
    sizes = [
        {(index.samples[t.sample].width_px, index.samples[t.sample].height_px) for t in batch}
        for batch in seen
    ]
    assert all(len(each) == 1 for each in sizes)
    assert len(seen) < 24
