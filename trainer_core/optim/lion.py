"""Lion (Chen et al. 2023, arXiv 2302.06675), with optimi's order of operations."""

from collections.abc import Mapping
from typing import Final

import torch

from trainer_core.config.plan import OptimizerPlan
from trainer_core.optim.guarded import Guard, load_moments, moment_tensors, updated_pieces
from trainer_core.optim.parameters import ParameterTensors


class Lion:
    """With gradient g, mean m, value p, rate r and decay d:

    - p ← p · (1 - r · d) - r · sign(β1 · m + (1 - β1) · g)
    - m ← β2 · m + (1 - β2) · g
    """

    asks_host: Final = False

    def __init__(self, parameters: ParameterTensors, plan: OptimizerPlan) -> None:
        self._parameters = parameters
        self._plan = plan
        means = [torch.zeros_like(leaf, requires_grad=False) for leaf in parameters.leaves]
        self._moments: Final = {"exp_avg": means}

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:  # noqa: ARG002
        return learning_rate, 1 - learning_rate * self._plan.weight_decay

    @torch.no_grad()
    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:
        guard = Guard(is_healthy)
        if guard.is_shut:
            return
        rate, kept = numbers.unbind()
        beta1, beta2 = self._plan.betas
        for gradient, mean, value in updated_pieces(self._parameters, self._moments["exp_avg"]):
            direction = mean.lerp(gradient, weight=1 - beta1).sign_()
            moved = torch.mul(value, kept, out=guard.place(value))
            guard.write(moved.addcmul_(direction, rate, value=-1), value)
            guard.write(torch.lerp(mean, gradient, 1 - beta2, out=guard.place(mean)), mean)

    def state(self) -> dict[str, torch.Tensor]:
        return moment_tensors(self._parameters, self._moments)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        load_moments(self._parameters, self._moments, tensors)
