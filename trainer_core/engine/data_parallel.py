"""Training of an adapter on several ranks (data parallel).

Each rank holds the frozen base and the whole adapter, and takes its share of a step's
micro-batches. Their gradients are summed over the ranks once a step, in one flat tensor, and each
rank then makes the same update. A step equals that of one process up to the rounding of the sum.
"""

import hashlib
from typing import Final

import torch

from trainer_core.checkpoint.read import Checkpoint
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.engine.ranks import Ranks
from trainer_core.engine.step import SingleProcess
from trainer_core.errors import DeviceError
from trainer_core.hidream.network import Network

_DIGEST_BYTES: Final = 7
"""As many as ``Ranks.agree`` compares."""


class DataParallel(SingleProcess):
    """The ``Backend`` of one of several ranks; alone it would be the ``SingleProcess``."""

    def __init__(self, network: Network, plan: Plan, ranks: Ranks) -> None:
        """``network``: as for ``SingleProcess``. Raises DeviceError as ``tensors``."""
        super().__init__(network, plan)
        self._ranks = ranks
        self.rank = ranks.rank
        self.ranks = ranks.count
        told = f"{ranks.count} ranks: the adapter's gradients are summed once a step"
        self.preparation += (told,)
        self._require_equal(super().tensors())

    def _exchange(self) -> None:
        # A number of one rank that is not finite makes the sum so: all ranks leave the step out.
        for leaf in self._parameters.leaves:
            assert leaf.grad is not None
            self._ranks.add_up(leaf.grad)
        self._ranks.add_up(self._means.sums)

    def tensors(self) -> TrainedTensors:
        """As of ``SingleProcess``. Raises DeviceError where ranks hold other bits than others."""
        trained = super().tensors()
        self._require_equal(trained)
        return trained

    def load(self, checkpoint: Checkpoint) -> None:
        super().load(checkpoint)
        self._require_equal(super().tensors())

    def _require_equal(self, trained: TrainedTensors) -> None:
        if not self._ranks.agree(_digest_of(trained)):
            raise DeviceError(
                "the ranks hold different weights or optimizer states of the adapter, which were "
                "equal at the start: a GPU computes wrongly, or the GPUs are of different kinds. "
                "The newest checkpoint is whole."
            )

    def max_across_ranks(self, number: int) -> int:
        return self._ranks.max(number)

    def sum_across_ranks(self, numbers: torch.Tensor) -> torch.Tensor:
        return self._ranks.sum(numbers)

    def close(self) -> None:
        self._ranks.leave()


def _digest_of(trained: TrainedTensors) -> int:
    """Of every bit, on the host."""
    digest = hashlib.sha256()
    for tensors in (trained.parameters, trained.optimizer_state, trained.ema):
        for _, tensor in sorted(tensors.items()):
            raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
    return int.from_bytes(digest.digest()[:_DIGEST_BYTES])
