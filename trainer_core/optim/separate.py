"""Trained parameters that stay where they are: for all weights of a model."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn


class SeparateParameters:
    """Every parameter is a leaf of its own.

    A backward pass allocates the gradients. ``clear_gradients`` frees them.
    """

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
