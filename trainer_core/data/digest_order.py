"""The order of samples that plans have today: it depends on what the samples are, not on names.

An epoch uses every training sample 1 + repeats times. A micro-batch has samples of one data backend
and one bucket; the last one of a bucket is filled up from the start of the bucket. The order of the
micro-batches of a backend is keyed, and backends are mixed as ``mixing`` says. A sample with K
crops takes them in turn: in each K of its uses, counted over all epochs, every crop once, in a
keyed order. All is computed from the number of the micro-batch alone, so the millionth one costs as
much as the first.

The order belongs to the whole data, and not to groups of it that lie together in storage: one
sample is read by itself, as it has 17 to 37 MB.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from trainer_core.data.mixing import Mix, Share
from trainer_core.data.permutation import Permutation, draw_seed, key_of, permuted
from trainer_core.data.sampler import MicroBatch
from trainer_core.data.timeline import Timeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The training samples of one backend and one size."""

    width_px: int
    height_px: int
    samples: tuple[int, ...]
    """Positions in ``DataIndex.samples``, in an order that depends on no name."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The training samples of one backend."""

    id: str
    repeats: int
    buckets: tuple[Bucket, ...]
    """In the order of their sizes."""
    micro_batch_size: int

    @cached_property
    def batch_ends(self) -> tuple[int, ...]:
        """Running total over the buckets of their micro-batches."""
        return tuple(
            accumulate(
                -(-len(bucket.samples) * (1 + self.repeats) // self.micro_batch_size)
                for bucket in self.buckets
            )
        )

    def uses_of(self, number: int, key: "EpochKey") -> list[tuple[int, int]]:
        """The samples of a micro-batch of the epoch, each with the number of its use in the epoch.

        Uses count from 0; those that fill up a micro-batch come after all others.
        """
        place = permuted(number, self.batch_ends[-1], key.of("batches", self.id))
        which = bisect_right(self.batch_ends, place)
        bucket = self.buckets[which]
        first = (place - (self.batch_ends[which - 1] if which else 0)) * self.micro_batch_size
        count = len(bucket.samples)
        permutations: dict[int, Permutation] = {}
        found = []
        for use in range(first, first + self.micro_batch_size):
            # One pass over the bucket after the other, so that a sample is in a micro-batch twice
            # only where its bucket is small or where two passes meet.
            turn, entry = divmod(use % (count * (1 + self.repeats)), count)
            if turn not in permutations:
                key_of_turn = key.of("bucket", self.id, bucket.width_px, bucket.height_px, turn)
                permutations[turn] = Permutation(count, key_of_turn)
            found.append((bucket.samples[permutations[turn].image_of(entry)], use // count))
        return found


@dataclass(frozen=True, slots=True)
class EpochKey:
    """What all keys of an epoch have in common."""

    parts: tuple[str | int, ...]

    def of(self, *parts: str | int) -> bytes:
        return key_of(*self.parts, *parts)


class DigestOrder:
    """Gives micro-batch i of a run, for any i ≥ 0, in any order."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        shares: Mapping[str, Share],
        timeline: Timeline,
        captions: Sequence[int],
        crops: Sequence[int],
        seed: int,
        data_digest: str,
    ) -> None:
        """
        Args:
            sources: the backends, in any order.
            shares: id → what the backend contributes to an epoch.
            timeline: when each is trained on.
            captions: for each position in ``DataIndex.samples``, the number of its captions.
            crops: and of its crops.
            seed: of the run.
            data_digest: part of each key, so that other data has another order.
        """
        self.timeline = timeline
        self._sources = {source.id: source for source in sources}
        self._shares = shares
        self._captions = captions
        self._crops = crops
        self._seed = seed
        self._data_digest = data_digest
        self._mixes: dict[int, Mix] = {}

    def micro_batch(self, i: int) -> MicroBatch:
        """Micro-batch ``i``, counted from 0; depends on seed, data and ``i`` only."""
        timeline = self.timeline
        step = i // timeline.micro_batches_per_step + 1
        number = timeline.number_at(step)
        span = timeline.spans[number]
        first = (span.first_step - 1) * timeline.micro_batches_per_step
        turn, position = divmod(i - first, span.micro_batches)
        key = EpochKey((self._seed, self._data_digest, number, turn))
        which, rank = self._mix(number).place_of(position, lambda phase: key.of("phase", phase))
        source = self._sources[span.backends[which]]
        epoch = span.first_epoch + turn
        uses = source.uses_of(rank, key)
        captions = tuple(self._caption_of(sample, i, slot) for slot, (sample, _) in enumerate(uses))
        crops = tuple(
            self._crop_of(sample, epoch * (1 + source.repeats) + use, source.id)
            for sample, use in uses
        )
        samples = tuple(sample for sample, _ in uses)
        return MicroBatch(index=i, epoch=epoch, samples=samples, captions=captions, crops=crops)

    def _caption_of(self, sample: int, i: int, slot: int) -> int:
        count = self._captions[sample]
        return 0 if count == 1 else draw_seed(self._seed, "caption", i, slot) % count

    def _crop_of(self, sample: int, use: int, backend: str) -> int:
        """The crop of a sample's use, counted over all epochs."""
        count = self._crops[sample]
        if count == 1:
            return 0
        turn, place = divmod(use, count)
        return permuted(place, count, key_of(self._seed, self._data_digest, "crop", backend, turn))

    def _mix(self, number: int) -> Mix:
        """The arrangement of the epochs of a span; made when it is first needed."""
        if number not in self._mixes:
            active = self.timeline.spans[number].backends
            self._mixes[number] = Mix([self._shares[id_] for id_ in active])
        return self._mixes[number]
