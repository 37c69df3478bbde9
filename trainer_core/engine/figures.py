"""What a step tells: collected on the device, read once, before anything is changed by it."""

import math
from dataclasses import dataclass

import torch

from trainer_core.config.plan import Objective
from trainer_core.engine.losses import Losses
from trainer_core.errors import NonFiniteLossError


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """One step in numbers, all finite."""

    loss: float
    """Flow-matching loss: mean over the step's samples, before the update."""
    balance_loss: float | None
    """Load balancing of the experts, not weighted: mean over micro-batches; None where off."""
    grad_max: float
    """Largest absolute element of the gradient, before clipping."""


class StepMeans:
    """Means over the micro-batches of a step, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.flow = torch.zeros((), device=device)
        self.balance: torch.Tensor | None = None

    def add(self, losses: Losses, count: int) -> None:
        """Take in one of ``count`` micro-batches."""
        self.flow += losses.flow_B.detach().mean() / count
        if losses.balance is not None:
            share = losses.balance.detach() / count
            self.balance = share if self.balance is None else self.balance + share

    def read(self, step: int, grad_max: torch.Tensor) -> StepFigures:
        """Wait for the device; raises NonFiniteLossError that names the step and what it found.

        One micro-batch that is not finite is enough: neither a sum nor a gradient recovers.
        """
        balance = grad_max.new_zeros(()) if self.balance is None else self.balance
        together = torch.stack([self.flow.double(), balance.double(), grad_max.double()])
        flow, balanced, largest = together.tolist()
        figures = StepFigures(
            loss=flow,
            balance_loss=None if self.balance is None else balanced,
            grad_max=largest,
        )
        if not all(map(math.isfinite, (flow, balanced, largest))):
            told = [f"loss {flow}", f"largest gradient {largest}"]
            told[1:1] = [] if self.balance is None else [f"balancing loss {balanced}"]
            raise NonFiniteLossError(
                f"step {step}: {', '.join(told)}; no update was made. "
                "Lower the learning rate, or clip gradients."
            )
        return figures


def total_loss(losses: Losses, objective: Objective) -> torch.Tensor:
    """What is differentiated: mean flow loss + weight · balancing loss."""
    flow = losses.flow_B.mean()
    if losses.balance is None:
        return flow
    return flow + objective.balance_weight * losses.balance
