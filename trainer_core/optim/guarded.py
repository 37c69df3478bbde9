"""Updates that the device itself leaves out after a step that is not finite.

An update is made of tensor operations only. Learning rate and bias corrections are tensors on the
device, and so is the flag that says whether the step was healthy. Nothing is read by the host.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from trainer_core.errors import CheckpointError
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.state import TENSOR


class GuardedOptimizer(Protocol):
    """Updates parameters from their gradients, unless the step was not healthy."""

    @property
    def asks_host(self) -> bool:
        """Whether ``update`` waits for the device, because the host has to read something."""

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """The numbers that ``update`` needs for optimizer step ``step``, counted from 1.

        It has the same length for every step.
        """

    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:
        """Update parameters and state with the leaves' gradients.

        Args:
            numbers: those of this step, fp32, [n], on the parameters' device.
            is_healthy: a boolean, 0-dimensional, on the parameters' device. Where it is False,
                parameters and state keep their bits.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that an update changes, by the keys of ``optim.state``."""

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``state`` returned. Raises CheckpointError where it does not fit."""


def keep_unless(is_healthy: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> None:
    """Write ``new`` into ``old`` where ``is_healthy``. A product with 0 would let NaN through."""
    torch.where(is_healthy, new, old, out=old)


Moments = Mapping[str, Sequence[torch.Tensor]]
"""Field of the optimizer's state → tensors shaped like the leaves."""


def moment_tensors(parameters: ParameterTensors, moments: Moments) -> dict[str, torch.Tensor]:
    """The moments of each parameter, by the keys of ``optim.state``; views."""
    return {
        f"{TENSOR}{name}/{field}": part
        for field, tensors in moments.items()
        for name, part in parameters.by_name(tensors).items()
    }


def load_moments(
    parameters: ParameterTensors, moments: Moments, saved: Mapping[str, torch.Tensor]
) -> None:
    """Copy saved moments into ``moments``.

    Raises CheckpointError where one is of no trained parameter, is missing, or has another shape or
    type.
    """
    for key in saved:
        name = key.removeprefix(TENSOR).rpartition("/")[0]
        if key.startswith(TENSOR) and name not in parameters.named:
            raise CheckpointError(f"optimizer state of {name}, which is not trained here")
    for key, moment in moment_tensors(parameters, moments).items():
        name, _, field = key.removeprefix(TENSOR).rpartition("/")
        value = saved.get(key)
        if value is None:
            raise CheckpointError(f"no optimizer state {field} of {name}")
        if value.shape != moment.shape or value.dtype != moment.dtype:
            raise CheckpointError(
                f"{field} of {name} is {tuple(value.shape)} {value.dtype} in the checkpoint and "
                f"{tuple(moment.shape)} {moment.dtype} here"
            )
        moment.copy_(value)
