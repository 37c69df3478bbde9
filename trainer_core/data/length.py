"""The length of a run in optimizer steps, and the steps at which its epochs end.

Micro-batches follow one another without a gap, over the ends of epochs too. So an epoch ends in the
step that takes its last micro-batch, and only the last step of a run in epochs is filled up from
the epoch after it.
"""

from collections import Counter
from collections.abc import Mapping

from trainer_core.config.plan import Identity
from trainer_core.data.index import DataIndex


def uses_of(index: DataIndex) -> Counter[tuple[int, int]]:
    """(width, height) of a bucket in pixels → uses of its training samples in an epoch."""
    uses: Counter[tuple[int, int]] = Counter()
    for sample in index.samples:
        if not sample.held_out:
            uses[sample.width_px, sample.height_px] += 1 + sample.repeats
    return uses


def micro_batches_in(uses: Mapping[tuple[int, int], int], micro_batch_size: int) -> int:
    """Micro-batches of an epoch: the last one of each bucket is filled up.

    ``uses``: as ``uses_of`` counts them; a bucket holds the samples of all backends.
    """
    return sum(-(-number // micro_batch_size) for number in uses.values())


def steps_of(identity: Identity, micro_batches_per_epoch: int) -> int:
    """Optimizer steps of a run: ``max_train_steps``, or those that its epochs take."""
    if identity.max_train_steps is not None:
        return identity.max_train_steps
    assert identity.num_train_epochs is not None  # the identity has one of the two
    return last_step_of(identity, micro_batches_per_epoch, identity.num_train_epochs)


def steps_on(identity: Identity, index: DataIndex) -> int:
    """Optimizer steps of a run on this data."""
    return steps_of(identity, micro_batches_in(uses_of(index), identity.micro_batch_size))


def epoch_steps_on(identity: Identity, index: DataIndex) -> float:
    """Optimizer steps of one epoch on this data; no whole number where epochs share a step."""
    per_epoch = micro_batches_in(uses_of(index), identity.micro_batch_size)
    return per_epoch / identity.micro_batches_per_step


def last_step_of(identity: Identity, micro_batches_per_epoch: int, epochs: int) -> int:
    """The step, counted from 1, that takes the last micro-batch of the first ``epochs`` epochs."""
    return -(-epochs * micro_batches_per_epoch // identity.micro_batches_per_step)


def ends_epoch(identity: Identity, micro_batches_per_epoch: int, step: int, *, every: int) -> bool:
    """Whether a step, counted from 1, takes the last micro-batch of every ``every``-th epoch."""
    taken, length = step * identity.micro_batches_per_step, every * micro_batches_per_epoch
    return taken // length > (taken - identity.micro_batches_per_step) // length
