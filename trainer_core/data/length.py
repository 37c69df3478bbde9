"""The length of a run in optimizer steps, and its epochs.

Only the last step of a run in epochs is filled up from the epoch after it; see ``timeline``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import assert_never

from trainer_core.config.plan import Identity
from trainer_core.config.plan.problems import Problem
from trainer_core.config.plan.windows import idle_message, window_of
from trainer_core.config.simpletuner.length import problems_of_epochs, warnings_of_epochs
from trainer_core.data.index import DataIndex
from trainer_core.data.several_crops import unused_crop_warnings
from trainer_core.data.timeline import Span, Timeline, lay_out

Uses = Mapping[tuple[str, int, int], int]
"""(backend, width, height) of a bucket in pixels → uses of its training samples in an epoch."""


def uses_of(index: DataIndex) -> Counter[tuple[str, int, int]]:
    """The uses of the samples of an index."""
    uses: Counter[tuple[str, int, int]] = Counter()
    for sample in index.samples:
        if not sample.held_out:
            uses[sample.backend, sample.width_px, sample.height_px] += 1 + sample.repeats
    return uses


def backend_micro_batches(uses: Uses, micro_batch_size: int) -> Counter[str]:
    """Backend → its micro-batches in an epoch: the last one of each of its buckets is filled up."""
    found: Counter[str] = Counter()
    for (backend, _, _), number in uses.items():
        found[backend] += -(-number // micro_batch_size)
    return found


def timeline_of(identity: Identity, uses: Uses) -> Timeline:
    """The steps of a run on data with these uses.

    Raises ValueError where there is nothing to train on at step 1, which the importer refuses.
    """
    match identity.sample_order:
        case 1:
            return _mixed_timeline(identity, uses)
        case 2:
            counts = backend_micro_batches(uses, identity.micro_batch_size)
            windows = {
                backend.id: window_of(backend)
                for backend in identity.backends
                if backend.id in counts
            }
            return lay_out(windows, counts, identity.micro_batches_per_step)
        case _:
            assert_never(identity.sample_order)


def _mixed_timeline(identity: Identity, uses: Uses) -> Timeline:
    """Of the order in which a bucket has the samples of all backends."""
    buckets: Counter[tuple[int, int]] = Counter()
    for (_, width, height), number in uses.items():
        buckets[width, height] += number
    if not buckets:
        raise ValueError("there is no sample to train on")
    span = Span(
        first_step=1,
        first_epoch=0,
        micro_batches=sum(-(-number // identity.micro_batch_size) for number in buckets.values()),
        backends=tuple(sorted({backend for backend, _, _ in uses})),
    )
    return Timeline(spans=(span,), micro_batches_per_step=identity.micro_batches_per_step)


def steps_of(identity: Identity, timeline: Timeline) -> int:
    """Optimizer steps of a run: ``max_train_steps``, or those that its epochs take."""
    if identity.max_train_steps is not None:
        return identity.max_train_steps
    assert identity.num_train_epochs is not None  # the identity has one of the two
    return timeline.last_step_of(identity.num_train_epochs)


def steps_on(identity: Identity, index: DataIndex) -> int:
    """Optimizer steps of a run on this data."""
    return steps_of(identity, timeline_of(identity, uses_of(index)))


def epoch_steps_on(identity: Identity, index: DataIndex) -> float:
    """Optimizer steps of an epoch on this data, in the mean over the run."""
    timeline = timeline_of(identity, uses_of(index))
    steps = steps_of(identity, timeline)
    return steps / timeline.epochs_in(steps)


def problems_of_length(identity: Identity, timeline: Timeline) -> list[Problem]:
    """Why a run cannot take its steps: too many, or without a data backend."""
    steps = steps_of(identity, timeline)
    if timeline.idle_from is not None and steps >= timeline.idle_from:
        trained = [backend for backend in identity.backends if backend.role == "train"]
        message = idle_message(timeline.idle_from, trained)
        return [Problem(pointer="/data_backends", code="conflict", message=message)]
    return list(problems_of_epochs(identity, steps))


def warnings_of_length(identity: Identity, timeline: Timeline) -> list[str]:
    """What is unusual about a run of these steps."""
    steps = steps_of(identity, timeline)
    used = {id_ for span in timeline.spans if span.first_step <= steps for id_ in span.backends}
    unused = [
        f"{backend.id} is never trained on: it {window_of(backend).in_words()}, and the run has "
        f"{steps:,} steps."
        for backend in identity.backends
        if backend.role == "train" and backend.id not in used
    ]
    crops = unused_crop_warnings(identity, timeline, steps)
    return [*warnings_of_epochs(identity, steps), *unused, *crops]
