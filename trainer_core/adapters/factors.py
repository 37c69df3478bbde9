"""The matrices of an adapter's deltas for one forward: made together, not linear by linear.

An adapter of attention alone has 768 tensors. Computed one by one, they would take thousands of
kernels of no work each. Tensors of the same shape are stacked, and each operation serves a stack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch


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
    """Seed of the dropout of this forward, 0-dimensional, int64."""
    is_on: bool = True
    """False: the base without the adapter."""


NO_ADAPTER = AdapterFactors(is_on=False)


def factors_of(
    paths: Sequence[str], first_n: torch.Tensor, second_n: torch.Tensor, dtype: torch.dtype
) -> tuple[dict[str, Factors], dict[str, Factors]]:
    """(values, links) of n linears from their stacked matrices, [n, ...] each, with their graph."""
    links = zip(first_n.unbind(), second_n.unbind(), strict=True)
    values = zip(
        first_n.detach().to(dtype).unbind(), second_n.detach().to(dtype).unbind(), strict=True
    )
    return (
        {path: Factors(*each) for path, each in zip(paths, values, strict=True)},
        {path: Factors(*each) for path, each in zip(paths, links, strict=True)},
    )
