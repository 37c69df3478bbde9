"""Trained parameters that stay where they are: for all weights of a model."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn


class SeparateParameters:
    """Every parameter is a leaf of its own."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, keeps_gradients: bool = False
    ) -> None:
        """``keeps_gradients``: they are allocated once and never None, so that a CUDA graph may
        add to them. Else a backward pass allocates them, and ``clear_gradients`` frees them."""
        self.named = dict(parameters)
        self.keeps_gradients = keeps_gradients
        self.leaves = tuple(parameters.values())
        if keeps_gradients:
            for leaf in self.leaves:
                leaf.grad = torch.zeros_like(leaf)

    def by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(zip(self.named, tensors, strict=True))

    def for_checkpoint(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.by_name(tensors)

    def clear_gradients(self) -> None:
        for leaf in self.leaves:
            if self.keeps_gradients and leaf.grad is not None:
                leaf.grad.zero_()
            else:
                leaf.grad = None
