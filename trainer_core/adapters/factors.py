"""The matrices of an adapter's deltas for one forward: made together, not linear by linear.

An adapter of attention alone has 768 tensors. Computed one by one, they would take thousands of
kernels of no work each. Tensors of the same shape are stacked, and each operation serves a stack.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from trainer_core.optim.flat import Stack


class Factors(NamedTuple):
    """The two matrices of one linear's delta, in the compute type.

    LoKr: w1 [a, c] and w2 [K, D]. LoRA: A [r, in] and B [out, r]. Constant factors, and LoKr's
    scalar, are multiplied into w1 and B.
    """

    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFactors:
    """The matrices of all adapted linears, by path."""

    values: Mapping[str, Factors] = field(default_factory=dict)
    """What the products use, without graph."""
    links: Mapping[str, Factors] = field(default_factory=dict)
    """The same in fp32, with the graph to the trained tensors: where gradients go."""
    seed: torch.Tensor | None = None
    """Seed of the dropout of this forward, 0-dimensional, int64; None: nothing is dropped."""
    is_on: bool = True
    """False: the base without the adapter."""


NO_ADAPTER = AdapterFactors(is_on=False)


class Trained:
    """The trained tensors of one forward, to be read as stacks [n, *shape] of equal shapes."""

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self._places = {
            name: (stack, number) for stack in stacks for number, name in enumerate(stack.names)
        }
        self._apart: dict[str, tuple[torch.Tensor, ...]] = {}
        """The tensors of stacks that were taken apart, by the stack's first name."""

    def stacked(self, names: Sequence[str]) -> torch.Tensor:
        """The tensors of these names, [n, *shape], with their graph.

        Where they lie side by side, as those of one adapter do, nothing is copied.
        """
        stack, first = self._places[names[0]]
        if stack.names[first : first + len(names)] == tuple(names):
            return stack.values[first : first + len(names)]
        return torch.stack([self._one(name) for name in names])

    def _one(self, name: str) -> torch.Tensor:
        stack, number = self._places[name]
        first = stack.names[0]
        if first not in self._apart:
            # All at once: their gradients are then put together once, not added up one by one.
            self._apart[first] = stack.values.unbind()
        return self._apart[first][number]


def by_path(
    stacks: Sequence[tuple[Sequence[str], torch.Tensor]], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(values, links) by path, from stacks of matrices with the paths of their linears.

    ``values`` are of ``dtype`` and without graph, ``links`` have it.
    """
    values: dict[str, torch.Tensor] = {}
    links: dict[str, torch.Tensor] = {}
    for paths, matrices_n in stacks:
        values |= zip(paths, matrices_n.detach().to(dtype).unbind(), strict=True)
        links |= zip(paths, matrices_n.unbind(), strict=True)
    return values, links


def grouped_by(keys: Mapping[str, Hashable]) -> list[tuple[str, ...]]:
    """Paths whose keys are equal, in the order of the first of each group."""
    groups: dict[Hashable, list[str]] = {}
    for path, key in keys.items():
        groups.setdefault(key, []).append(path)
    return [tuple(paths) for paths in groups.values()]


def paired(
    first: tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]],
    second: tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]],
) -> tuple[dict[str, Factors], dict[str, Factors]]:
    """(values, links) of both matrices of each linear, from those of one and of the other."""
    values, links = (
        {path: Factors(ones[path], others[path]) for path in ones}
        for ones, others in zip(first, second, strict=True)
    )
    return values, links
