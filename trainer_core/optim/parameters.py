"""The trained parameters as the tensors that an update runs over."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn


class ParameterTensors(Protocol):
    """Parameters by name, and the leaf tensors that hold their values and gradients.

    ``FlatParameters`` has one leaf for all parameters.
    """

    @property
    def named(self) -> Mapping[str, nn.Parameter]:
        """The parameters by logical name."""

    @property
    def leaves(self) -> Sequence[nn.Parameter]:
        """What optimizer, clipping and running mean loop over; each has its ``grad``."""

    def by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parts of tensors that are shaped like the leaves, by the parameters' names: views."""

    def for_checkpoint(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """As ``by_name``, but copied to the host where that takes a single transfer."""

    def clear_gradients(self) -> None:
        """Forget all gradients."""
