"""What the ranks of a run agree on between two steps: a request, and whether all have a batch.

Each rank offers its own after it has launched a step, and takes the answer before the next one. The
exchange runs on the CPU in the background meanwhile. So no rank waits for its device, and none acts
on a request alone, which would leave the others waiting in a collective operation.
"""

from typing import Final, NamedTuple

import torch
import torch.distributed

from trainer_core.process.control import Control, ControlRequest

_BY_URGENCY: Final = tuple(ControlRequest)


class Agreed(NamedTuple):
    """The same on every rank."""

    request: ControlRequest
    """The most urgent one that any rank had read."""
    has_batches: bool
    """Whether every rank had its next batch, or the error of building it."""


class Agreement:
    """Every rank makes one, and calls the same methods in the same order."""

    def __init__(self, control: Control, ranks: int) -> None:
        self._control = control
        self._group = torch.distributed.new_group(backend="gloo") if ranks > 1 else None
        self._offered: tuple[torch.Tensor, torch.distributed.Work | None] | None = None

    def offer(self, *, has_batch: bool) -> None:
        """Begin to tell the others what is requested of this rank, and whether it has a batch."""
        if self._group is None:
            return
        urgency = _BY_URGENCY.index(self._control.requested())
        own = torch.tensor([urgency, int(not has_batch)])
        work = torch.distributed.all_reduce(
            own, op=torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._offered = own, work

    def take(self) -> Agreed:
        """What the ranks have offered; the one of a single process is its own, read now.

        Where nothing was offered, the ranks agree now on the request alone.
        """
        if self._group is None:
            return Agreed(self._control.requested(), has_batches=False)
        if self._offered is None:
            self.offer(has_batch=False)
        assert self._offered is not None
        (largest, work), self._offered = self._offered, None
        if work is not None:
            work.wait()
        urgency, is_missing = largest.tolist()
        return Agreed(_BY_URGENCY[urgency], has_batches=not is_missing)
