"""The steps of a run: which data backends each trains on, and the epochs that it ends.

The micro-batches of an epoch follow one another without a gap, over the ends of epochs too. So an
epoch ends in the step that takes its last micro-batch. Where a backend starts or ends, the epochs
begin anew with the backends that are left. The epoch that is cut off there does not count: the next
one takes its number. A backend starts and ends at a step; one that does so with an epoch, at the
first step that has no micro-batch of the epoch before.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from trainer_core.config.plan.windows import Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Successive steps that train on the same backends."""

    first_step: int
    """Counted from 1."""
    first_epoch: int
    """The epoch that begins with the first step, counted from 0."""
    micro_batches: int
    """Of an epoch."""
    backends: tuple[str, ...]
    """Ids, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """All steps of a run, however long it is."""

    spans: tuple[Span, ...]
    """In order; never empty. The last one has no end but ``idle_from``."""
    micro_batches_per_step: int
    idle_from: int | None = None
    """The first step that no backend is trained on at; None: there is none."""

    def number_at(self, step: int) -> int:
        """The position in ``spans`` of the span that a step belongs to.

        Raises ValueError for a step without a backend.
        """
        if self.idle_from is not None and step >= self.idle_from:
            raise ValueError(f"no data backend is trained on at step {step}")
        return bisect_right([span.first_step for span in self.spans], step) - 1

    def epoch_of(self, i: int) -> int:
        """The epoch, counted from 0, of micro-batch ``i``; raises ValueError as ``number_at``."""
        span = self.spans[self.number_at(i // self.micro_batches_per_step + 1)]
        first = (span.first_step - 1) * self.micro_batches_per_step
        return span.first_epoch + (i - first) // span.micro_batches

    def within(self, micro_batches: int) -> int:
        """``micro_batches``, or the number of all there are where that is less."""
        if self.idle_from is None:
            return micro_batches
        return min(micro_batches, (self.idle_from - 1) * self.micro_batches_per_step)

    def epochs_by(self, step: int) -> int:
        """The number of epochs that are over after a step; 0 for step 0."""
        return math.floor(self._epochs_by(step))

    def ends_epoch(self, step: int, *, every: int | Fraction) -> bool:
        """Whether a step takes the last micro-batch of every ``every``-th epoch, or part of one."""
        return self._epochs_by(step) // every > self._epochs_by(step - 1) // every

    def last_step_of(self, epochs: int) -> int:
        """The step, counted from 1, in which the first ``epochs`` epochs are over.

        ``idle_from`` where they never are.
        """
        for span, end in zip(self.spans, self._ends(), strict=True):
            micro_batches = (epochs - span.first_epoch) * span.micro_batches
            last = span.first_step - 1 - -micro_batches // self.micro_batches_per_step
            if end is None or last < end:
                return last
        assert self.idle_from is not None  # the last span has no other end
        return self.idle_from

    def epochs_in(self, steps: int, backend: str | None = None) -> float:
        """The number of epochs in the first steps, the parts of those that are cut off, too.

        ``backend``: only of those that it is trained on in.
        """
        found = 0.0
        for span, end in zip(self.spans, self._ends(), strict=True):
            last = steps if end is None else min(steps, end - 1)
            counts = backend is None or backend in span.backends
            if counts and last >= span.first_step:
                found += self._taken(span, last) / span.micro_batches
        return found

    def _epochs_by(self, step: int) -> Fraction:
        """As ``epochs_by``, with the part of the epoch that is not over."""
        if step == 0:
            return Fraction(0)
        span = self.spans[self.number_at(step)]
        return span.first_epoch + Fraction(self._taken(span, step), span.micro_batches)

    def _taken(self, span: Span, step: int) -> int:
        """Micro-batches from the start of the span to the end of one of its steps."""
        return (step - span.first_step + 1) * self.micro_batches_per_step

    def _ends(self) -> list[int | None]:
        """For each span, the first step after it."""
        return [*(span.first_step for span in self.spans[1:]), self.idle_from]


def lay_out(
    windows: Mapping[str, Window], micro_batches: Mapping[str, int], micro_batches_per_step: int
) -> Timeline:
    """The timeline of backends that start and end.

    Args:
        windows: id → when the backend is trained on.
        micro_batches: id → its micro-batches in an epoch, at least 1.
        micro_batches_per_step: micro-batches of all ranks in one optimizer step.

    Raises ValueError where no backend is trained on at step 1.
    """
    spans: list[Span] = []
    step, epoch = 1, 0
    while active := _active(windows, step, epoch):
        span = Span(
            first_step=step,
            first_epoch=epoch,
            micro_batches=sum(micro_batches[id_] for id_ in active),
            backends=active,
        )
        spans.append(span)
        for next_step, next_epoch in _changes(span, windows, micro_batches_per_step):
            if _active(windows, next_step, next_epoch) != active:
                step, epoch = next_step, next_epoch
                break
        else:
            return Timeline(spans=tuple(spans), micro_batches_per_step=micro_batches_per_step)
    if not spans:
        raise ValueError("no data backend is trained on at step 1")
    return Timeline(
        spans=tuple(spans), micro_batches_per_step=micro_batches_per_step, idle_from=step
    )


def _active(windows: Mapping[str, Window], step: int, epoch: int) -> tuple[str, ...]:
    """Ids of the backends of a step; ``epoch`` counts from 0."""
    return tuple(sorted(id_ for id_, window in windows.items() if window.holds(step, epoch + 1)))


def _changes(span: Span, windows: Mapping[str, Window], per_step: int) -> Iterator[tuple[int, int]]:
    """Steps after the span's first at which a backend might start or end, with their epochs."""
    steps: set[int] = set()
    epochs: set[int] = set()
    for window in windows.values():
        steps.add(window.start_step)
        epochs.add(window.start_epoch - 1)
        if window.end_step is not None:
            steps.add(window.end_step + 1)
        if window.end_epoch is not None:
            epochs.add(window.end_epoch)
    for epoch in epochs:
        if epoch > span.first_epoch:
            whole = (epoch - span.first_epoch) * span.micro_batches
            steps.add(span.first_step - -whole // per_step)
    for step in sorted(each for each in steps if each > span.first_step):
        taken = (step - span.first_step) * per_step
        yield step, span.first_epoch + taken // span.micro_batches
