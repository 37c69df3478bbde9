"""The samples of micro-batch i, computed from i alone: a sampler has no state to save."""

from dataclasses import dataclass
from typing import Protocol

from trainer_core.data.timeline import Timeline


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
    crops: tuple[int, ...]
    """For each sample, the number of its crop; see ``Sample.crop``."""


class Sampler(Protocol):
    """The order of a run's samples; ``orders.sampler_of`` makes the one that its plan has."""

    @property
    def timeline(self) -> Timeline:
        """The steps of the run and their epochs."""
        ...

    def micro_batch(self, i: int) -> MicroBatch:
        """Micro-batch ``i``, counted from 0, of any ``i`` in any order.

        Raises ValueError for one of a step that no data backend is trained on at.
        """
        ...
