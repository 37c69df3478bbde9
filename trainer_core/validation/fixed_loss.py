"""The fixed validation loss: the mean over 64 evaluation samples, before and after training.

An evaluation sample is an image with its caption, and fixed draws of noise and sigma. Because they
never change, a difference between two measurements comes from training. Half of the samples use
held-out images where there are any.

Events (``{"name": "probe"}``) and checkpoint manifests (``probe_before``) call this loss "probe":
their format is older than the name used here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import JsonValue

from trainer_core.data.index import DataIndex
from trainer_core.data.permutation import draw_seed

SAMPLES: Final = 64
_SAMPLES_PER_BATCH: Final = 8
"""Small, so that a batch without gradients needs less memory than training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSample:
    """An image with its caption, and its fixed draws of noise and sigma."""

    i: int
    """Number of the evaluation sample, from 0; seeds its draws."""
    sample: int
    """Position in ``DataIndex.samples``."""
    text: int
    """Position of its caption in ``DataIndex.entries``."""
    held_out: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedLoss:
    """One measurement."""

    losses: tuple[float, ...]
    """One for each evaluation sample, in their order."""
    mean: float
    held_out_mean: float | None
    """Over the samples with held-out images; None where there are none."""

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "mean": self.mean,
            "held_out_mean": self.held_out_mean,
            "losses": list(self.losses),
        }


def evaluation_samples(
    index: DataIndex, seed: int, numbered: Sequence[int]
) -> tuple[EvaluationSample, ...]:
    """The run's 64 evaluation samples.

    32 are training images and 32 are held-out images; without held-out images all 64 are training
    images. The images of a kind are shuffled by ``seed``, and repeated if there are fewer than
    needed. Each repetition takes the next caption of its image.

    ``numbered``: positions of all samples in an order that gives each its number for the shuffle;
    see ``orders.samples_in_order``.
    """
    groups = [
        [each for each in enumerate(numbered) if index.samples[each[1]].held_out is held_out]
        for held_out in (False, True)
    ]
    groups = [group for group in groups if group]
    per_group = SAMPLES // len(groups)
    chosen: list[EvaluationSample] = []
    for group in groups:
        # The purpose "probe order" seeds the draw: another name would choose other samples.
        drawn = sorted(group, key=lambda each: draw_seed(seed, "probe order", 0, each[0]))
        for number in range(per_group):
            _, position = drawn[number % len(drawn)]
            sample = index.samples[position]
            chosen.append(
                EvaluationSample(
                    i=len(chosen),
                    sample=position,
                    text=sample.texts[number // len(drawn) % len(sample.texts)],
                    held_out=sample.held_out,
                )
            )
    return tuple(chosen)


def measure_fixed_loss(
    samples: Sequence[EvaluationSample],
    index: DataIndex,
    losses: Callable[[Sequence[EvaluationSample]], torch.Tensor],
    *,
    before_batch: Callable[[], None],
) -> FixedLoss:
    """Measure the loss of every evaluation sample, without gradients.

    Samples of one bucket share a batch. Each has draws of its own, so batching changes a loss by
    rounding only.

    Args:
        samples: from ``evaluation_samples``.
        index: the data index that they refer to.
        losses: computes the loss of each of several samples of one bucket, [B].
        before_batch: called before each batch; it may raise to end the measurement.
    """
    measured: dict[int, float] = {}
    with torch.no_grad():
        for batch in _batches(samples, index):
            before_batch()
            values = losses(batch).tolist()
            measured |= {sample.i: value for sample, value in zip(batch, values, strict=True)}
    in_order = tuple(measured[sample.i] for sample in samples)
    held_out = [measured[sample.i] for sample in samples if sample.held_out]
    return FixedLoss(
        losses=in_order,
        mean=_mean(in_order),
        held_out_mean=_mean(held_out) if held_out else None,
    )


def _batches(
    samples: Sequence[EvaluationSample], index: DataIndex
) -> Iterator[list[EvaluationSample]]:
    by_size: dict[tuple[int, int], list[EvaluationSample]] = {}
    for each in samples:
        image = index.samples[each.sample]
        by_size.setdefault((image.width_px, image.height_px), []).append(each)
    for _, group in sorted(by_size.items()):
        for start in range(0, len(group), _SAMPLES_PER_BATCH):
            yield group[start : start + _SAMPLES_PER_BATCH]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
