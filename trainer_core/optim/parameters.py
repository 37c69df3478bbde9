"""The trained parameters as the tensors that an update runs over."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn


class ParameterTensors(Protocol):
    """Parameters by name, and the leaf tensors that hold their values and gradients.

    ``FlatParameters`` has one leaf for all parameters, ``SeparateParameters`` one for each.
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


class SeparateParameters:
    """Every parameter is a leaf of its own; a backward pass allocates the gradients."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.named = dict(parameters)
        self.leaves = tuple(parameters.values())

    def by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(zip(self.named, tensors, strict=True))

    def for_checkpoint(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.by_name(tensors)

    def clear_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None
