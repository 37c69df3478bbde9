"""Metrics of a step: collected on the device, and read by the host in one transfer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from trainer_core.config.plan import Objective
from trainer_core.engine.losses import Losses
from trainer_core.errors import NonFiniteLossError
from trainer_core.process.scalars import SIGMA_BIN_NAMES

SIGMA_BINS: Final = len(SIGMA_BIN_NAMES)
"""Equal parts of [0, 1], the range of sigma, in which the loss of a step's samples is told."""
NUM_CHECKED: Final = 3
"""A step that has another than a finite number among these changes nothing."""
NUM_REPORTED: Final = NUM_CHECKED + 1 + 2 * SIGMA_BINS
"""How many numbers ``StepMeans`` has of a step."""
_AT_THE_FIRST_STEP: Final = (
    "No option of the optimizer can be the cause: look at the pictures of this step and at the "
    "weights that the run starts from."
)


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
    grad_norm: float | None = None
    """Euclidean norm of the whole gradient, before clipping; None where fp32 cannot hold it."""
    loss_by_sigma: tuple[float | None, ...] = ()
    """Flow-matching loss of the samples whose sigma is in each bin; None where there are none."""


class StepMeans:
    """Means over the micro-batches of a step, in tensors that stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2 + 2 * SIGMA_BINS, device=device)
        """All of the following, one after another."""
        self.flow, self.balance = self.sums[0], self.sums[1]
        self.by_sigma = self.sums[2:].view(2, SIGMA_BINS)
        """Of each bin: the sum of its samples' losses, and their number."""
        self._bins = torch.arange(SIGMA_BINS, device=device)
        self.has_balance = False
        """Whether any micro-batch had a balancing loss."""

    def add(self, losses: Losses, count: int, sigmas_B: torch.Tensor) -> None:
        """Add the losses of one micro-batch; ``count`` of them make the step."""
        flow_B = losses.flow_B.detach()
        self.flow += flow_B.mean() / count
        bin_B = (sigmas_B * SIGMA_BINS).long().clamp(0, SIGMA_BINS - 1)
        is_in_BN = bin_B.unsqueeze(1) == self._bins
        self.by_sigma[0] += torch.where(is_in_BN, flow_B.unsqueeze(1), 0.0).sum(dim=0)
        self.by_sigma[1] += is_in_BN.sum(dim=0)
        if losses.balance is not None:
            self.balance += losses.balance.detach() / count
            self.has_balance = True

    def clear(self) -> None:
        """Start a new step."""
        self.sums.zero_()

    def numbers(self, grad_max: torch.Tensor) -> torch.Tensor:
        """Both means and the largest gradient, fp64, [3], for ``metrics_of``."""
        return torch.stack([self.flow.double(), self.balance.double(), grad_max.double()])

    def more_numbers(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """What no step is stopped for, fp64, [1 + 2 · bins], for ``metrics_of``."""
        return torch.cat([grad_norm.double().view(1), self.by_sigma.double().flatten()])


def metrics_of(
    step: int,
    numbers: Sequence[float],
    more: Sequence[float] = (),
    *,
    has_balance: bool,
    is_partial: bool = False,
) -> StepMetrics:
    """The metrics of a step from what ``StepMeans.numbers`` and ``more_numbers`` returned.

    Raises NonFiniteLossError, with the step and the values, where one of them is not finite. A
    single bad micro-batch makes it so, because a sum keeps NaN and infinity. ``is_partial``:
    whether weights were updated before the gradient that is not finite.
    """
    flow_loss, balance_loss, largest = numbers
    if not all(map(math.isfinite, numbers)):
        values = [f"loss {flow_loss}"]
        if has_balance:
            values.append(f"balancing loss {balance_loss}")
        values.append(f"largest gradient {largest}")
        advice = "Lower learning_rate or max_grad_norm." if step > 1 else _AT_THE_FIRST_STEP
        done = "no update was made"
        if is_partial and math.isfinite(flow_loss) and math.isfinite(balance_loss):
            done = "some weights were updated before, so go on from the last checkpoint"
        raise NonFiniteLossError(f"step {step}: {', '.join(values)}; {done}. {advice}")
    norm, by_sigma = (more[0], more[1:]) if more else (math.nan, ())
    return StepMetrics(
        loss=flow_loss,
        balance_loss=balance_loss if has_balance else None,
        grad_max=largest,
        grad_norm=norm if math.isfinite(norm) else None,
        loss_by_sigma=tuple(
            total / count if count else None
            for total, count in zip(by_sigma[:SIGMA_BINS], by_sigma[SIGMA_BINS:], strict=True)
        ),
    )


def total_loss(losses: Losses, objective: Objective) -> torch.Tensor:
    """The loss to differentiate, a scalar: mean flow loss + weight · balancing loss."""
    flow = losses.flow_B.mean()
    if losses.balance is None:
        return flow
    return flow + objective.balance_weight * losses.balance
