"""Metrics of a step: collected on the device, and read once before the update."""

import math
from dataclasses import dataclass

import torch

from trainer_core.config.plan import Objective
from trainer_core.engine.losses import Losses
from trainer_core.errors import NonFiniteLossError


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """Numbers of one step, all finite."""

    loss: float
    """Flow-matching loss: mean over the step's samples, before the update."""
    balance_loss: float | None
    """Load-balancing loss of the experts, without its weight: mean over the micro-batches; None
    where it is off."""
    grad_max: float
    """Largest absolute element of the gradient, before clipping."""


class StepMeans:
    """Means over the micro-batches of a step, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.flow = torch.zeros((), device=device)
        self.balance: torch.Tensor | None = None

    def add(self, losses: Losses, count: int) -> None:
        """Add the losses of one micro-batch; ``count`` of them make the step."""
        self.flow += losses.flow_B.detach().mean() / count
        if losses.balance is not None:
            share = losses.balance.detach() / count
            self.balance = share if self.balance is None else self.balance + share

    def read(self, step: int, grad_max: torch.Tensor) -> StepMetrics:
        """Copy the means to the host, which waits for the device.

        Raises NonFiniteLossError, with the step and the values, where one of them is not finite. A
        single bad micro-batch makes it so, because a sum keeps NaN and infinity.
        """
        balance = grad_max.new_zeros(()) if self.balance is None else self.balance
        # One transfer for all three.
        together = torch.stack([self.flow.double(), balance.double(), grad_max.double()])
        flow_loss, balance_loss, largest = together.tolist()
        metrics = StepMetrics(
            loss=flow_loss,
            balance_loss=None if self.balance is None else balance_loss,
            grad_max=largest,
        )
        if not all(map(math.isfinite, (flow_loss, balance_loss, largest))):
            values = [f"loss {flow_loss}"]
            if self.balance is not None:
                values.append(f"balancing loss {balance_loss}")
            values.append(f"largest gradient {largest}")
            raise NonFiniteLossError(
                f"step {step}: {', '.join(values)}; no update was made. "
                "Lower the learning rate, or clip gradients."
            )
        return metrics


def total_loss(losses: Losses, objective: Objective) -> torch.Tensor:
    """The loss to differentiate, a scalar: mean flow loss + weight · balancing loss."""
    flow = losses.flow_B.mean()
    if losses.balance is None:
        return flow
    return flow + objective.balance_weight * losses.balance
