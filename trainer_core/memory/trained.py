"""Sizes of the tensors that a plan trains: an adapter's, or all of the transformer's."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer_core.base_models.part_sizes import transformer_tensors
from trainer_core.config.plan import AdaptedModule, Identity, LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import hidream_linears, lokr_shapes


@dataclass(frozen=True, slots=True)
class TrainedTensor:
    """One trained tensor."""

    elements: int
    starts_at_zero: bool = False


def trained_parameters(identity: Identity, transformer: Mapping[str, Any]) -> int:
    """Number of trained parameters."""
    return sum(tensor.elements for tensor in trained_tensors(identity, transformer))


def trained_modules(identity: Identity, transformer: Mapping[str, Any]) -> int:
    """Number of linear layers that have an adapter or are trained in full."""
    if identity.adapter is None:
        return len(hidream_linears(transformer))
    return len(identity.adapter.modules)


def trained_tensors(
    identity: Identity, transformer: Mapping[str, Any]
) -> tuple[TrainedTensor, ...]:
    """Every trained tensor; ``transformer``: its configuration."""
    adapter = identity.adapter
    if adapter is None:
        return tuple(TrainedTensor(elements) for elements in transformer_tensors(transformer))
    sides = {
        linear.path: (linear.in_features, linear.out_features)
        for linear in hidream_linears(transformer)
    }
    if isinstance(adapter, LoraAdapter):
        return tuple(_lora_tensors(adapter, sides))
    return tuple(
        tensor
        for module in adapter.modules
        for tensor in _lokr_tensors(adapter, module, *sides[module.path])
    )


def _lora_tensors(
    adapter: LoraAdapter, sides: Mapping[str, tuple[int, int]]
) -> Iterator[TrainedTensor]:
    """The factors A and B of each module."""
    for path in adapter.modules:
        in_, out = sides[path]
        yield TrainedTensor(adapter.rank * in_)
        yield TrainedTensor(adapter.rank * out, starts_at_zero=True)


def _lokr_tensors(
    adapter: LokrAdapter, module: AdaptedModule, in_: int, out: int
) -> Iterator[TrainedTensor]:
    """w1 and w2, each whole or as two factors, and the scalar."""
    starts_at_zero = not module.use_scalar and adapter.init_lokr_norm is None
    shapes = lokr_shapes(module, in_, out)
    last = "w2_b" if "w2_b" in shapes else "w2"
    for name, shape in shapes.items():
        is_zero = name == "scalar" or (name == last and starts_at_zero)
        yield TrainedTensor(math.prod(shape), is_zero)
