"""A running mean (EMA) of the trained parameters, in fp32. The result holds the mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from trainer_core.config.plan import EmaPlan
from trainer_core.errors import CheckpointError


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
    """One mean for each trained parameter. The step alone decides whether it is updated."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], plan: EmaPlan, device: torch.device
    ) -> None:
        """The means start as copies of the parameters, on ``device``."""
        self._parameters = dict(parameters)
        self._plan = plan
        self._means = {
            name: parameter.detach().to(device, torch.float32, copy=True)
            for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the means with the parameters after optimizer step ``step``."""
        if step % self._plan.update_interval:
            return
        share = 1 - decay_at(step, self._plan)
        for name, parameter in self._parameters.items():
            mean = self._means[name]
            value = parameter.detach().to(mean.device, mean.dtype)
            if share == 1:  # the formula below would round
                mean.copy_(value)
            else:
                mean.add_(value - mean, alpha=share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the means. Afterwards they hold their own values again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The means by the parameters' names. Not valid inside ``applied``."""
        return dict(self._means)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned.

        Raises CheckpointError where a mean is missing, or has another shape or type.
        """
        for name, mean in self._means.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != mean.shape or saved.dtype != mean.dtype:
                raise CheckpointError(
                    f"the checkpoint has no mean (EMA) of {name} in the shape and type of this run"
                )
            mean.copy_(saved)

    @torch.no_grad()
    def _exchange(self) -> None:
        # In place, one parameter at a time: a whole second copy may not fit.
        for name, parameter in self._parameters.items():
            mean = self._means[name]
            value = parameter.detach().to(mean.device, copy=True)
            parameter.copy_(mean)
            mean.copy_(value)
