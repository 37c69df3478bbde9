"""The order of samples that plans of before have: by the names of the files.

Plans say which order they have, so that a run goes on in the one that it began with. A micro-batch
has samples of one bucket, of any backends. Nothing here may change: each number is in checkpoints.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from trainer_core.data.index import DataIndex
from trainer_core.data.permutation import draw_seed, permuted
from trainer_core.data.sampler import MicroBatch
from trainer_core.data.timeline import Timeline


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The training samples of one size."""

    samples: tuple[int, ...]
    ends: tuple[int, ...]
    """Running total of uses: entry e belongs to the first sample whose end is above e."""

    @property
    def visits(self) -> int:
        return self.ends[-1]

    def sample_of(self, entry: int) -> int:
        return self.samples[bisect_right(self.ends, entry)]


class PathOrder:
    """Gives micro-batch i of a run, for any i ≥ 0, in any order."""

    def __init__(
        self,
        index: DataIndex,
        *,
        seed: int,
        micro_batch_size: int,
        data_digest: str,
        timeline: Timeline,
    ) -> None:
        self.timeline = timeline
        self._samples = index.samples
        self._seed = seed
        self._size = micro_batch_size
        self._digest = data_digest
        self._buckets = _buckets_of(index)
        self._batch_ends = tuple(
            accumulate(-(-bucket.visits // micro_batch_size) for bucket in self._buckets)
        )

    def micro_batch(self, i: int) -> MicroBatch:
        """Micro-batch ``i``, counted from 0; depends on seed, data digest and ``i`` only."""
        epoch, position = divmod(i, self._batch_ends[-1])
        place = permuted(position, self._batch_ends[-1], self._key(epoch, "batches"))
        which = bisect_right(self._batch_ends, place)
        bucket = self._buckets[which]
        slot = place - (self._batch_ends[which - 1] if which else 0)
        key = self._key(epoch, f"bucket {which}")
        samples = tuple(
            bucket.sample_of(permuted(entry % bucket.visits, bucket.visits, key))
            for entry in range(slot * self._size, (slot + 1) * self._size)
        )
        captions = tuple(
            draw_seed(self._seed, "caption", i, sample) % len(self._samples[sample].texts)
            for sample in samples
        )
        crops = (0,) * self._size  # plans with this order have one crop an image
        return MicroBatch(index=i, epoch=epoch, samples=samples, captions=captions, crops=crops)

    def _key(self, epoch: int, purpose: str) -> bytes:
        body = f"{self._seed}\0{self._digest}\0{epoch}\0{purpose}".encode()
        return hashlib.sha256(body).digest()


def _buckets_of(index: DataIndex) -> Sequence[_Bucket]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for position, sample in enumerate(index.samples):
        if not sample.held_out:
            by_size.setdefault((sample.width_px, sample.height_px), []).append(position)
    return tuple(
        _Bucket(
            samples=tuple(positions),
            ends=tuple(accumulate(index.samples[p].repeats + 1 for p in positions)),
        )
        for _, positions in sorted(by_size.items())
    )
