"""The order in which a run needs its cache entries."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from trainer_core.data.index import DataIndex
from trainer_core.data.sampler import Sampler

_LOOKAHEAD_MICRO_BATCHES: Final = 2000


class FeedOrder:
    """Digests of entries by first use. It goes forward only, and serves one thread."""

    def __init__(
        self,
        index: DataIndex,
        sampler: Sampler,
        *,
        micro_batches_per_step: int,
        last_step: int | None = None,
    ) -> None:
        """``last_step``: of the run, which needs nothing after it; None: that is not known."""
        self._index = index
        self._sampler = sampler
        self._per_step = micro_batches_per_step
        self._end = None if last_step is None else last_step * micro_batches_per_step
        """The number of the run's micro-batches."""
        self._digests_of_run = frozenset(entry.digest for entry in index.entries)
        self._first = 0
        self._ahead: deque[tuple[str, ...]] = deque()
        """Of each micro-batch from ``_first`` on, the entries that it needs."""

    @property
    def entries_a_step(self) -> int:
        """The most that a step needs, about."""
        return self._per_step * max(map(len, self._ahead), default=1)

    def has(self, digest: str) -> bool:
        """Whether the run has an entry of this digest."""
        return digest in self._digests_of_run

    def digests_from(self, step: int) -> Iterator[str]:
        """Digests of entries, each once, by first use after ``step`` steps.

        Near the end of the run those that no step uses any more are left out.
        """
        seen: set[str] = set()
        for digest in self._uses_from(step):
            if digest not in seen:
                seen.add(digest)
                yield digest

    def _uses_from(self, step: int) -> Iterator[str]:
        yield from self._digests(self._index.prompts.values())
        if step == 0:
            # The validation before the first step uses held-out samples.
            yield from self._held_out()
        yield from chain.from_iterable(self._micro_batches_from(step * self._per_step))
        yield from self._held_out()
        if self._end is None or step * self._per_step + _LOOKAHEAD_MICRO_BATCHES < self._end:
            yield from self._digests(range(len(self._index.entries)))

    def _micro_batches_from(self, first: int) -> Iterator[tuple[str, ...]]:
        """The entries of the next micro-batches; each is computed once."""
        if first < self._first or first > self._first + len(self._ahead):
            self._ahead.clear()
            self._first = first
        while self._first < first:
            self._ahead.popleft()
            self._first += 1
        yield from islice(self._ahead, len(self._ahead))
        last = self._sampler.timeline.within(first + _LOOKAHEAD_MICRO_BATCHES)
        last = last if self._end is None else min(last, self._end)
        while first + len(self._ahead) < last:
            entries = self._entries_of(first + len(self._ahead))
            self._ahead.append(entries)
            yield entries

    def _entries_of(self, i: int) -> tuple[str, ...]:
        batch = self._sampler.micro_batch(i)
        needed: list[int] = []
        for position, caption, crop in zip(batch.samples, batch.captions, batch.crops, strict=True):
            sample = self._index.samples[position]
            needed += (*sample.crop(crop).entries(), sample.texts[caption])
        return tuple(self._digests(needed))

    def _held_out(self) -> Iterator[str]:
        for sample in self._index.samples:
            if sample.held_out:
                yield from self._digests(sample.entries())

    def _digests(self, entries: Iterable[int]) -> Iterator[str]:
        for entry in entries:
            yield self._index.entries[entry].digest
