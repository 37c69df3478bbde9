"""The trained tensors in one flat tensor, with one flat gradient.

There are hundreds of small tensors. In one flat tensor, clipping, the optimizer and the
running mean are a few operations for all of them together.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import torch
from torch import nn

ALIGNMENT: Final = 64
"""Stacks start at multiples of this many elements, so that kernels may load them in wide words."""


class Stack(NamedTuple):
    """Parameters of one kind and shape, side by side."""

    names: tuple[str, ...]
    values: torch.Tensor
    """[n, *shape], in the order of the names."""


class FlatParameters:
    """Moves parameters into one flat tensor, in place: they stay the same objects.

    Parameters with the same last part of the name and the same shape lie side by side, as a stack.
    A backward pass may run through the parameters or through ``values``: both add to the same
    gradient, which is never None. Elements between the stacks are 0, and so is their gradient.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raises ValueError for no parameters, and where they differ in type or device."""
        self.named = dict(parameters)
        kinds = {(each.dtype, each.device) for each in parameters.values()}
        if len(kinds) != 1:
            raise ValueError(f"one flat tensor needs one type and device, not {len(kinds)}")
        self._places = _places_of(parameters)
        self._starts = {
            name: place.start + number * math.prod(place.shape)
            for place in self._places
            for number, name in enumerate(place.names)
        }
        dtype, device = kinds.pop()
        size = sum(place.size + place.padding for place in self._places)
        self.values = nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
        self.leaves = (self.values,)
        values = self.by_name([self.values.detach()])
        for name, parameter in parameters.items():
            values[name].copy_(parameter.detach())
            parameter.data = values[name]
        # Last, when nothing is held twice any more.
        self.values.grad = torch.zeros_like(self.values)
        gradients = self.by_name([self.values.grad])
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]

    def stacks(self) -> tuple[Stack, ...]:
        """The parameters as views of ``values`` that a backward pass runs through.

        The views of all stacks come from one split, so their backward pass writes the flat gradient
        once. Call it within each forward: the views belong to one graph.
        """
        sizes = [size for place in self._places for size in (place.size, place.padding)]
        parts = torch.split(self.values, sizes)[::2]
        return tuple(
            Stack(place.names, part.view(len(place.names), *place.shape))
            for place, part in zip(self._places, parts, strict=True)
        )

    def by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        (flat,) = tensors
        return {
            name: flat.narrow(0, self._starts[name], parameter.numel()).view(parameter.shape)
            for name, parameter in self.named.items()
        }

    def for_checkpoint(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.by_name([tensor.cpu() for tensor in tensors])

    def clear_gradients(self) -> None:
        assert self.values.grad is not None
        self.values.grad.zero_()


class _Place(NamedTuple):
    """Where a stack lies in the flat tensor."""

    names: tuple[str, ...]
    shape: torch.Size
    start: int
    size: int
    """Elements of the stack."""
    padding: int
    """Elements after it."""


def _places_of(parameters: Mapping[str, nn.Parameter]) -> tuple[_Place, ...]:
    """Stacks in the order of their first parameter."""

    def kind(name: str) -> tuple[str, torch.Size]:
        return name.rpartition(".")[2], parameters[name].shape

    first: dict[tuple[str, torch.Size], int] = {}
    for number, name in enumerate(parameters):
        first.setdefault(kind(name), number)
    places, start = [], 0
    in_stacks = sorted(parameters, key=lambda name: first[kind(name)])
    for (_, shape), names in groupby(in_stacks, key=kind):
        members = tuple(names)
        size = len(members) * math.prod(shape)
        padding = -size % ALIGNMENT
        places.append(_Place(members, shape, start, size, padding))
        start += size + padding
    return tuple(places)
