"""Optimizers of libraries, which the host calls after it has asked whether the step was healthy."""

from collections.abc import Mapping
from typing import Final

import torch

from trainer_core.config.plan import OptimizerPlan
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.state import load_state_tensors, state_tensors


class HostAskingOptimizer:
    """Prodigy and the 8-bit Lion: they compute with numbers of the host, or launch by themselves.

    They run over the named parameters, so that 8-bit blocks never span two of them.
    """

    asks_host: Final = True

    def __init__(self, parameters: ParameterTensors, plan: OptimizerPlan) -> None:
        self._named = parameters.named
        self._optimizer = build_optimizer(parameters.named.values(), plan)

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:  # noqa: ARG002
        set_learning_rate(self._optimizer, learning_rate)
        return ()

    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:  # noqa: ARG002
        if is_healthy.item():
            self._optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        return state_tensors(self._optimizer, self._named)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        load_state_tensors(self._optimizer, self._named, tensors)
