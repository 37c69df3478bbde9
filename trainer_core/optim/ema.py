"""A running mean (EMA) of the trained parameters, in fp32. The result holds the mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch

from trainer_core.config.plan import EmaPlan
from trainer_core.errors import CheckpointError
from trainer_core.optim.guarded import Guard, in_pieces
from trainer_core.optim.parameters import ParameterTensors


def decay_at(step: int, plan: EmaPlan) -> float:
    """The weight of the old mean in the update after optimizer step ``step``.

    - First update, and every update of a warm-up: 0. The mean is then a copy of the parameters.
    - After a warm-up: ``decay``.
    - Without a warm-up, at update s, counted from 1: min(decay, (1 + s) / (10 + s)).
    """
    updates = step // plan.update_interval
    if updates == 1 or step <= plan.warmup_steps:
        return 0.0
    return plan.decay if plan.warmup_steps else min(plan.decay, (1 + updates) / (10 + updates))


class Ema:
    """A mean of each leaf of the trained parameters."""

    def __init__(self, parameters: ParameterTensors, plan: EmaPlan, device: torch.device) -> None:
        """The means start as copies of the parameters, on ``device``."""
        self._parameters = parameters
        self._plan = plan
        self.means = [
            leaf.detach().to(device, torch.float32, copy=True) for leaf in parameters.leaves
        ]
        """Shaped like the leaves. Not valid inside ``applied``."""
        self.asks_host: Final = device.type == "cpu" and parameters.leaves[0].is_cuda
        """Whether ``update`` waits for the device, to copy the parameters to the host."""

    def share(self, step: int) -> float:
        """The weight of the parameters in the update after optimizer step ``step``; 0: none."""
        return 0.0 if step % self._plan.update_interval else 1 - decay_at(step, self._plan)

    @torch.no_grad()
    def update(self, share: torch.Tensor, is_healthy: torch.Tensor) -> None:
        """Update the means with the parameters.

        Args:
            share: that of this step, fp32, 0-dimensional, on the parameters' device.
            is_healthy: a boolean, 0-dimensional, on the parameters' device. Where it is False, or
                the share is 0, the means keep their bits.
        """
        is_due = is_healthy & (share > 0)
        if self.asks_host:
            share, is_due = share.cpu(), is_due.cpu()
        guard = Guard(is_due)
        if guard.is_shut:
            return
        is_copy = Guard(share == 1)
        for leaf, mean in self._pieces():
            value = leaf.to(mean.device, mean.dtype)
            # At share 1 the formula would round.
            moved = torch.addcmul(mean, value - mean, share, out=guard.place(mean))
            is_copy.write(value, moved)
            guard.write(moved, mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the means. Afterwards they hold their own values again."""
        if any(leaf.dtype is not torch.float32 for leaf in self._parameters.leaves):
            with self._copied():
                yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextmanager
    def _copied(self) -> Iterator[None]:
        """``applied`` for parameters that cannot hold all bits of a mean."""
        pairs = list(zip(self._parameters.leaves, self.means, strict=True))
        values = [leaf.detach().to(mean.device, copy=True) for leaf, mean in pairs]
        with torch.no_grad():
            for leaf, mean in pairs:
                leaf.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for leaf, value in zip(self._parameters.leaves, values, strict=True):
                    leaf.copy_(value)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The means by the parameters' names. Not valid inside ``applied``."""
        return self._parameters.for_checkpoint(self.means)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned.

        Raises CheckpointError where a mean is missing, or has another shape or type.
        """
        for name, mean in self._parameters.by_name(self.means).items():
            saved = tensors.get(name)
            if saved is None or saved.shape != mean.shape or saved.dtype != mean.dtype:
                raise CheckpointError(
                    f"the checkpoint has no mean (EMA) of {name} in the shape and type of this run"
                )
            mean.copy_(saved)

    @torch.no_grad()
    def _exchange(self) -> None:
        # In place: a second copy of all weights may not fit.
        for leaf, mean in self._pieces():
            value = leaf.to(mean.device, copy=True)
            leaf.copy_(mean)
            mean.copy_(value)

    def _pieces(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for leaf, mean in zip(self._parameters.leaves, self.means, strict=True):
            yield from in_pieces(leaf.detach(), mean)
