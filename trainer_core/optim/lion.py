"""Lion (Chen et al. 2023, arXiv 2302.06675), with optimi's order of operations."""

from collections.abc import Iterable, Mapping
from typing import Final

import torch

from trainer_core.config.plan import OptimizerPlan
from trainer_core.optim.guarded import Guard, load_moments, moment_tensors, updated_pieces
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.rounding import NUM_WORDS, Rounding


class Lion:
    """With gradient g, mean m, value p, rate r and decay d:

    - p ← p · (1 - r · d) - r · sign(β1 · m + (1 - β1) · g)
    - m ← β2 · m + (1 - β2) · g
    """

    asks_host: Final = False
    fields: Final = ("exp_avg",)

    def __init__(
        self, parameters: ParameterTensors, plan: OptimizerPlan, rounding: Rounding | None = None
    ) -> None:
        """``rounding``: of leaves in bf16."""
        self._rounding = rounding
        self._parameters = parameters
        self._plan = plan
        means = [torch.zeros_like(leaf, requires_grad=False) for leaf in parameters.leaves]
        self._moments: Final = {"exp_avg": means}

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:
        numbers = learning_rate, 1 - learning_rate * self._plan.weight_decay
        return numbers if self._rounding is None else (*numbers, *self._rounding.words(step))

    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:
        self.begin(numbers)
        self.update_leaves(range(len(self._parameters.leaves)), numbers, is_healthy)

    def begin(self, numbers: torch.Tensor) -> None:
        if self._rounding is not None:
            self._rounding.begin(numbers[-NUM_WORDS:])

    @torch.no_grad()
    def update_leaves(
        self, leaves: Iterable[int], numbers: torch.Tensor, is_healthy: torch.Tensor
    ) -> None:
        guard = Guard(is_healthy)
        if guard.is_shut:
            return
        rate, kept = numbers[:2].unbind()
        beta1, beta2 = self._plan.betas
        for piece in updated_pieces(self._parameters, self._moments.values(), leaves):
            gradient, (mean, value) = piece.gradient, piece.values
            direction = mean.lerp(gradient, weight=1 - beta1).sign_()
            moved = torch.mul(value, kept, out=piece.place(1, guard))
            moved.addcmul_(direction, rate, value=-1)
            new_mean = torch.lerp(mean, gradient, 1 - beta2, out=piece.place(0, guard))
            piece.write(guard, self._rounding, new_mean, moved)

    def end(self, is_healthy: torch.Tensor) -> None:
        """Nothing counts the updates."""

    def state(self) -> dict[str, torch.Tensor]:
        return moment_tensors(self._parameters, self._moments)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        load_moments(self._parameters, self._moments, tensors)
