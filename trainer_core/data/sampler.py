"""The samples of micro-batch i, computed from i alone: the sampler has no state to save.

An epoch uses every training sample 1 + repeats times. A micro-batch has samples of one bucket. The
last one of a bucket is filled up from the start of the bucket. The order is a keyed permutation
that is computed entry by entry, so the millionth micro-batch costs as much as the first.
"""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from trainer_core.data.index import DataIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Samples that go through the model together."""

    index: int
    epoch: int
    """Counted from 0."""
    samples: tuple[int, ...]
    """Positions in ``DataIndex.samples``, all of one bucket."""
    captions: tuple[int, ...]
    """For each sample, the position of its caption in ``Sample.texts``."""


def draw_seed(seed: int, purpose: str, i: int, sample: int) -> int:
    """The 64-bit seed of one random draw, for a purpose, micro-batch ``i`` and sample."""
    body = f"{seed}\0{purpose}\0{i}\0{sample}".encode()
    return int.from_bytes(hashlib.sha256(body).digest()[:8])


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


class Sampler:
    """Gives micro-batch i of a run, for any i ≥ 0, in any order."""

    def __init__(self, index: DataIndex, seed: int, micro_batch_size: int) -> None:
        """Raises ValueError if the index has no sample to train on."""
        self._samples = index.samples
        self._seed = seed
        self._size = micro_batch_size
        self._digest = index.digest()
        self._buckets = _buckets_of(index)
        if not self._buckets:
            raise ValueError("the index holds no sample to train on")
        self._batch_ends = tuple(
            accumulate(-(-bucket.visits // micro_batch_size) for bucket in self._buckets)
        )

    @property
    def micro_batches_per_epoch(self) -> int:
        return self._batch_ends[-1]

    def micro_batch(self, i: int) -> MicroBatch:
        """Micro-batch ``i``, counted from 0; depends on seed, index digest and ``i`` only."""
        epoch, position = divmod(i, self.micro_batches_per_epoch)
        place = permuted(position, self.micro_batches_per_epoch, self._key(epoch, "batches"))
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
        return MicroBatch(index=i, epoch=epoch, samples=samples, captions=captions)

    def _key(self, epoch: int, purpose: str) -> bytes:
        body = f"{self._seed}\0{self._digest}\0{epoch}\0{purpose}".encode()
        return hashlib.sha256(body).digest()


def _buckets_of(index: DataIndex) -> tuple[_Bucket, ...]:
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


_ROUNDS: Final = 6


def permuted(entry: int, count: int, key: bytes) -> int:
    """The image of ``entry`` under a keyed permutation of 0…count−1.

    A Feistel network over the next even power of two, applied again until the value is below
    ``count``. It needs no table, and on average at most four evaluations. Source: Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), cycle walking and generalised Feistel.
    """
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = entry >> half_bits, entry & mask
        for round_ in range(_ROUNDS):
            body = round_.to_bytes(1) + right.to_bytes(8)
            mixed = hashlib.blake2b(body, key=key, digest_size=8).digest()
            left, right = right, left ^ int.from_bytes(mixed) & mask
        entry = left << half_bits | right
        if entry < count:
            return entry
