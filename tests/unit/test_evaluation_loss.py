"""The evaluation loss: which images, which noise levels, its mean and its interval."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.jobs import demo_plan, photo_items
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Evaluation
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.validation.evaluation import (
    EvaluationImage,
    EvaluationLoss,
    EvaluationRow,
    EvaluationSet,
    evaluation_set,
    measure_evaluation,
    sigma_grid,
    summary,
)
from trainer_core.validation.evaluations import Evaluated, Evaluations, evaluations_in
from trainer_core.validation.interval import mean_of, student_t

PLAN = Evaluation(
    step_interval=1,
    epoch_interval=None,
    images=3,
    sigmas=4,
    backends=("held-out",),
    by_backend=False,
)


@pytest.fixture(scope="module")
def index(tiny_folder: Path) -> DataIndex:
    base = read_base_model(tiny_folder)
    plan = demo_plan(base, edge_px=128)
    return build_index(plan, photo_items(plan), base.transformer_config)


def chosen(index: DataIndex, **changes: Any) -> EvaluationSet:
    plan = PLAN.model_copy(update=changes)
    found = evaluation_set(plan, index, regularisation=())
    assert found is not None
    return found


def test_the_grid_has_the_midpoints_of_equal_parts() -> None:
    assert sigma_grid(1) == (0.5,)
    assert sigma_grid(4) == (0.125, 0.375, 0.625, 0.875)
    grid = sigma_grid(28)
    assert len(grid) == 28
    assert sum(grid) / 28 == pytest.approx(0.5, abs=1e-15)
    # The midpoint rule: the mean of sigma² over the grid is near its integral over [0, 1].
    assert sum(each**2 for each in grid) / 28 == pytest.approx(1 / 3, abs=2e-4)


def test_held_out_images_are_chosen_by_what_is_in_them(index: DataIndex) -> None:
    found = chosen(index)
    turned = index.model_copy(update={"samples": index.samples[::-1]})

    assert len(found.images) == 3
    assert found.is_held_out
    assert {each.backend for each in found.images} == {"held-out"}
    assert [each.key for each in chosen(turned).images] == [each.key for each in found.images]
    assert chosen(turned).digest() == found.digest()
    assert [each.key for each in chosen(index, images=2).images] == [
        each.key for each in found.images[:2]
    ]
    assert chosen(index, sigmas=5).digest() != found.digest()
    everything = chosen(index, images=1000)
    assert len(everything.images) == sum(sample.held_out for sample in index.samples)


def test_without_datasets_images_that_are_trained_on_are_measured(index: DataIndex) -> None:
    found = chosen(index, backends=())

    assert not found.is_held_out
    assert {each.backend for each in found.images} == {"photos"}
    unknown = PLAN.model_copy(update={"backends": ("x",)})
    assert evaluation_set(unknown, index, regularisation=()) is None


def test_images_of_the_base_are_not_measured_beside_others(index: DataIndex) -> None:
    samples = [
        sample.model_copy(update={"backend": "base"}) if number % 2 else sample
        for number, sample in enumerate(index.samples)
        if not sample.held_out
    ]
    mixed = index.model_copy(update={"samples": tuple(samples)})
    plan = PLAN.model_copy(update={"backends": (), "images": 1000})

    found = evaluation_set(plan, mixed, regularisation={"base"})
    only = evaluation_set(plan, mixed, regularisation={"base", "photos"})

    assert found is not None
    assert {each.backend for each in found.images} == {"photos"}
    assert only is not None
    assert {each.backend for each in only.images} == {"base", "photos"}


def test_each_dataset_has_its_images_and_its_mean_where_they_are_not_pooled(
    index: DataIndex,
) -> None:
    both = {"backends": ("held-out", "photos"), "images": 2}

    pooled, apart = chosen(index, **both), chosen(index, **both, by_backend=True)

    assert len(pooled.images) == 2
    assert [each.backend for each in apart.images] == ["held-out", "held-out", "photos", "photos"]
    losses = [[1.0] * 4, [2.0] * 4, [5.0] * 4, [7.0] * 4]
    document: Any = summary(apart, losses).as_json()
    assert document["mean"] == 3.75
    assert [(each["backend"], each["images"], each["mean"]) for each in document["by_backend"]] == [
        ("held-out", 2, 1.5),
        ("photos", 2, 6.0),
    ]
    assert "by_backend" not in summary(pooled, losses[:2]).as_json()


def images(count: int, *, px: Callable[[int], int] = lambda _: 64) -> EvaluationSet:
    """Made-up ones."""
    return EvaluationSet(
        images=tuple(
            EvaluationImage(
                sample=number,
                text=number,
                backend="b",
                width_px=px(number),
                height_px=64,
                key=f"{number:064x}",
            )
            for number in range(count)
        ),
        sigmas=sigma_grid(5),
        is_held_out=True,
        by_backend=False,
    )


def measured(
    found: EvaluationSet,
    function: Callable[[EvaluationRow], float],
    *,
    ranks: int = 1,
    most_px: int = 3 * 64 * 64,
    seen: list[list[Sequence[EvaluationRow]]] | None = None,
) -> EvaluationLoss:
    """Measure a function in place of the network, on several ranks one after another."""
    tables: list[torch.Tensor] = []
    results: list[EvaluationLoss] = []

    for is_second in (False, True):  # first every rank's own part, then with the sum of all
        total = sum(tables, torch.zeros(())) if is_second else None

        for rank in range(ranks):
            batches: list[Sequence[EvaluationRow]] = []

            def losses(
                rows: Sequence[EvaluationRow], into: list[Sequence[EvaluationRow]] = batches
            ) -> torch.Tensor:
                assert not torch.is_grad_enabled()
                into.append(rows)
                return torch.tensor([function(row) for row in rows])

            def add(table: torch.Tensor, total: torch.Tensor | None = total) -> torch.Tensor:
                if total is None:
                    tables.append(table)
                    return table
                return total

            results.append(
                measure_evaluation(
                    found,
                    losses,
                    most_px=most_px,
                    rank=rank,
                    ranks=ranks,
                    add=add,
                    before_batch=lambda: None,
                )
            )
            if seen is not None and not is_second:
                seen.append(batches)
    assert all(each == results[-1] for each in results[ranks:])
    return results[-1]


def rough(row: EvaluationRow) -> float:
    """A loss that depends on image and noise level, in fp32."""
    drawn = random.Random(f"{row.image.key} {row.number}").lognormvariate(0, 1)
    return torch.tensor(drawn * (0.3 + row.sigma), dtype=torch.float32).item()


def test_the_means_are_those_of_float64() -> None:
    found = images(7, px=lambda number: 64 + 32 * (number % 2))

    loss = measured(found, rough)

    table = torch.tensor(
        [
            [
                rough(EvaluationRow(image=image, place=0, number=number, sigma=sigma))
                for number, sigma in enumerate(found.sigmas)
            ]
            for image in found.images
        ],
        dtype=torch.float64,
    )
    of_images = table.mean(dim=1)
    half = 2.4469118511449692 * of_images.std(correction=1) / math.sqrt(7)  # Student's t, 6
    assert loss.total.mean == pytest.approx(table.mean().item(), rel=1e-14)
    assert loss.total.low == pytest.approx((of_images.mean() - half).item(), rel=1e-12)
    assert loss.total.high == pytest.approx((of_images.mean() + half).item(), rel=1e-12)
    assert [sigma for sigma, _ in loss.by_sigma] == list(found.sigmas)
    for number, (_, mean) in enumerate(loss.by_sigma):
        column = table[:, number]
        half = 2.4469118511449692 * column.std(correction=1) / math.sqrt(7)
        assert mean.mean == pytest.approx(column.mean().item(), rel=1e-14)
        assert mean.low == pytest.approx((column.mean() - half).item(), rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_the_work_and_find_the_same_bits(ranks: int) -> None:
    found = images(7, px=lambda number: 64 + 32 * (number % 2))
    alone: list[list[Sequence[EvaluationRow]]] = []
    shared: list[list[Sequence[EvaluationRow]]] = []

    one = measured(found, rough, seen=alone)
    several = measured(found, rough, ranks=ranks, seen=shared)

    assert several == one  # bit for bit: floats are compared
    assert {len(each) for each in shared} == {-(-len(alone[0]) // ranks)}  # equally often
    turns = [batch for turn in zip(*shared, strict=True) for batch in turn]
    assert turns[: len(alone[0])] == alone[0]
    sizes = [{row.image.width_px for row in batch} for batch in alone[0]]
    assert all(len(each) == 1 for each in sizes)
    assert max(len(batch) for batch in alone[0]) == 3


def test_a_batch_has_the_memory_of_a_training_batch_at_most() -> None:
    found = images(4)

    assert {len(batch) for batch in found.batches(1)} == {1}
    assert {len(batch) for batch in found.batches(4 * 64 * 64)} == {4}
    assert max(len(batch) for batch in found.batches(1 << 40)) == 8


def test_draws_depend_on_image_and_noise_level_alone(index: DataIndex) -> None:
    found = chosen(index)
    moved = chosen(index.model_copy(update={"samples": index.samples[::-1]}))

    seeds = [image.seed("noise", number) for image in found.images for number in range(4)]

    assert len(set(seeds)) == len(seeds)
    assert seeds == [image.seed("noise", number) for image in moved.images for number in range(4)]
    assert found.images[0].seed("posterior") not in seeds


def test_the_interval_covers_repeated_measurement() -> None:
    """Images of one population, each with its own difficulty and its own draws of noise."""
    drawn = random.Random(5)
    truth = math.exp(0.5 * 0.4**2)
    found = images(8)
    covered = 0
    times = 2000

    for _ in range(times):
        of_images = [drawn.lognormvariate(0, 0.4) for _ in found.images]
        table = [[mean + drawn.gauss(0, 0.3) for _ in found.sigmas] for mean in of_images]
        total = summary(found, table).total
        assert total.low is not None
        assert total.high is not None
        covered += total.low <= truth <= total.high

    # 95 % are promised of a normal population; ± 4 standard errors, and a little for the skew.
    assert 0.915 < covered / times < 0.97


def test_quantiles_of_students_distribution() -> None:
    table = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445, 15: 2.131450, 27: 2.051831}
    for degrees, quantile in {**table, 1000: 1.962339}.items():
        assert student_t(degrees) == pytest.approx(quantile, abs=5e-7)


def test_one_value_has_no_interval() -> None:
    assert mean_of([2.5]).as_json() == {"mean": 2.5, "low": None, "high": None}
    assert mean_of([2.5, 2.5]).as_json() == {"mean": 2.5, "low": 2.5, "high": 2.5}
    assert mean_of([2.5, math.nan]).low is None


def test_a_stop_is_obeyed_between_batches() -> None:
    class StoppedError(Exception):
        pass

    seen: list[int] = []

    def before() -> None:
        if len(seen) == 2:
            raise StoppedError

    def losses(rows: Sequence[EvaluationRow]) -> torch.Tensor:
        seen.append(len(rows))
        return torch.zeros(len(rows))

    with pytest.raises(StoppedError):
        measure_evaluation(
            images(4),
            losses,
            most_px=1,
            rank=0,
            ranks=1,
            add=lambda table: table,
            before_batch=before,
        )
    assert len(seen) == 2


def at(step: int, mean: float | None) -> Evaluated:
    return Evaluated(step=step, mean=mean, low=None, high=None)


def test_the_best_is_the_lowest_and_of_equal_ones_the_first() -> None:
    found = Evaluations(basis="a")
    for step, mean in [(0, 3.0), (2, None), (4, 1.0), (6, 1.0), (8, 2.0)]:
        found = found.with_newest(at(step, mean))
        if step in (2, 6, 8):
            found = found.with_checkpoint(step)

    assert found.step == 8
    assert found.best == at(4, 1.0)
    assert found.best_checkpoint == at(6, 1.0)
    assert found.with_checkpoint(9) == found  # no measurement was made there
    assert [each.step for each in found.newest] == [0, 2, 4, 6, 8]
    written = found.model_dump(mode="json")
    assert evaluations_in(written, "a") == found
    assert evaluations_in(written, "b") == Evaluations(basis="b")
    assert evaluations_in({"basis": 3}, "a") == evaluations_in(None, "a") == Evaluations(basis="a")


def test_only_the_newest_hundred_are_kept() -> None:
    found = Evaluations(basis="a")
    for step in range(150):
        found = found.with_newest(at(step, 1000.0 - step))

    assert [each.step for each in found.newest] == list(range(50, 150))
    assert found.best == at(149, 851.0)
