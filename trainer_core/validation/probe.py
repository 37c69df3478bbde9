"""The stable loss: the same 64 questions before and after, so that a difference is the training's.

Half are asked about held-out images where there are any.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import JsonValue

from trainer_core.data.index import DataIndex, Sample, ShardRef
from trainer_core.data.sampler import draw_seed

TRIPLES: Final = 64
_TRIPLES_A_BATCH: Final = 8
"""Small: the activations of a batch without gradients must fit where one with them fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """One question: an image with its caption, and number ``i`` of the noise and sigma draws."""

    i: int
    sample: int
    text: ShardRef
    held_out: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Losses in the order of the triples."""

    losses: tuple[float, ...]
    mean: float
    held_out_mean: float | None
    """Of the triples on held-out images; None where there are none."""

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "mean": self.mean,
            "held_out_mean": self.held_out_mean,
            "losses": list(self.losses),
        }


def probe_triples(index: DataIndex, seed: int) -> tuple[Triple, ...]:
    """Exactly 64: each group's images in a drawn order, again and again."""
    groups = [
        [position for position, sample in enumerate(index.samples) if sample.held_out is held_out]
        for held_out in (False, True)
    ]
    groups = [group for group in groups if group]
    share = TRIPLES // len(groups)
    triples: list[Triple] = []
    for group in groups:
        drawn = sorted(group, key=lambda position: draw_seed(seed, "probe order", 0, position))
        for turn in range(share):
            position = drawn[turn % len(drawn)]
            sample = index.samples[position]
            triples.append(
                Triple(
                    i=len(triples),
                    sample=position,
                    text=sample.texts[turn // len(drawn) % len(sample.texts)],
                    held_out=sample.held_out,
                )
            )
    return tuple(triples)


def measure(
    triples: Sequence[Triple],
    index: DataIndex,
    losses: Callable[[Sequence[Triple]], torch.Tensor],
    *,
    between: Callable[[], None],
) -> ProbeResult:
    """Ask all triples.

    Triples of one bucket go together; each has draws of its own, so grouping changes an answer by
    rounding only.

    Args:
        triples: of ``probe_triples``.
        index: what they point into.
        losses: loss of each of several triples of one bucket, [B].
        between: called before each batch; may raise to give up.
    """
    found: dict[int, float] = {}
    with torch.no_grad():
        for batch in _batches(triples, index):
            between()
            values = losses(batch).tolist()
            found |= {triple.i: value for triple, value in zip(batch, values, strict=True)}
    in_order = tuple(found[triple.i] for triple in triples)
    return ProbeResult(
        losses=in_order,
        mean=_mean(in_order),
        held_out_mean=_mean_or_none(found[t.i] for t in triples if t.held_out),
    )


def _batches(triples: Sequence[Triple], index: DataIndex) -> Iterator[list[Triple]]:
    by_size: dict[tuple[int, int], list[Triple]] = {}
    for triple in triples:
        by_size.setdefault(_size(index.samples[triple.sample]), []).append(triple)
    for _, group in sorted(by_size.items()):
        for start in range(0, len(group), _TRIPLES_A_BATCH):
            yield group[start : start + _TRIPLES_A_BATCH]


def _size(sample: Sample) -> tuple[int, int]:
    return sample.width_px, sample.height_px


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_or_none(values: Iterable[float]) -> float | None:
    listed = list(values)
    return _mean(listed) if listed else None
