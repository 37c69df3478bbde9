"""The start values of a run that starts from an adapter.

Adapter files have every constant factor multiplied into one matrix, and a run multiplies its own
factors in again. They are divided out here, so that the change of each weight is that of the file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter, Plan
from trainer_core.config.plan.shapes import LinearShape, lokr_scale
from trainer_core.errors import AdapterFileError
from trainer_core.export.adapter_tensors import ModuleTensors, read_tensors
from trainer_core.export.start_file import find_start
from trainer_core.weights.start_adapter import SCALAR, misfit, stored_adapter

_SEARCHED_STEPS: Final = 2
"""A product and a quotient, both rounded, end at most so many fp32 numbers away."""


def start_from(
    place: Path, plan: Plan, linears: Sequence[LinearShape], trained: Mapping[str, nn.Parameter]
) -> None:
    """Set the trained parameters to the adapter at ``place``.

    Args:
        place: as for ``find_start``.
        plan: of the run; it has the digest of the file.
        linears: linear layers of the base model; see ``hidream_linears``.
        trained: by logical name.

    Raises AdapterFileError where it is not the file that the plan was made for, or does not fit.
    """
    planned, adapter = plan.identity.start_adapter, plan.identity.adapter
    assert planned is not None
    assert adapter is not None
    found = find_start(place)
    if found.sha256 != planned.sha256:
        raise AdapterFileError(f"{place} has changed since the run was planned")
    assert found.header is not None
    assert found.path is not None
    stored = stored_adapter(str(place), found.header, linears, found.state)
    if why := misfit(adapter, stored, linears):
        raise AdapterFileError(f"{place} does not fit the adapter of this run: {why}")
    values = start_values(adapter, read_tensors(found.path, linears, found.state).modules)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(values[name])


def start_values(
    adapter: LokrAdapter | LoraAdapter, modules: Mapping[str, ModuleTensors]
) -> dict[str, torch.Tensor]:
    """The trained tensors by logical name, fp32, whose change of each weight is the stored one.

    They are the stored ones, bit for bit, where the factors agree. LoKr's learned scalar is 1 where
    the file has it multiplied in.

    Args:
        adapter: of the run.
        modules: by path; they fit the adapter.
    """
    values: dict[str, torch.Tensor] = {}
    if isinstance(adapter, LoraAdapter):
        for path in adapter.modules:
            stored = modules[path]
            values[f"{path}.lora_A"] = stored.matrices["lora_A"]
            values[f"{path}.lora_B"] = _rescaled(
                stored.matrices["lora_B"], stored.scale, adapter.alpha / adapter.rank
            )
        return values
    for module in adapter.modules:
        own = _lokr_values(module, adapter.multiplier, modules[module.path])
        values |= {f"{module.path}.{name}": value for name, value in own.items()}
    return values


def _lokr_values(
    module: AdaptedModule, multiplier: float, stored: ModuleTensors
) -> dict[str, torch.Tensor]:
    values = {part.removeprefix("lokr_"): matrix for part, matrix in stored.matrices.items()}
    own = multiplier * lokr_scale(module, {name: tuple(v.shape) for name, v in values.items()})
    scale, scalar = stored.scale, 1.0 if stored.scalar is None else stored.scalar
    if module.use_scalar:
        values[SCALAR] = torch.full((1,), scalar)
    else:
        scale *= scalar
    first = "w1" if "w1" in values else "w1_a"
    values[first] = _rescaled(values[first], scale, own)
    return values


def _rescaled(values: torch.Tensor, scale: float, own: float) -> torch.Tensor:
    """values · scale / own, in fp32.

    Where an fp32 number becomes exactly values · scale when ``own`` is multiplied in again, as it
    is in the result's file, it is taken.
    """
    if scale == own:
        return values
    wanted = (values.double() * scale).float()
    found = (wanted.double() / own).float()
    for towards in (math.inf, -math.inf):
        near = found
        for _ in range(_SEARCHED_STEPS):
            near = torch.nextafter(near, torch.tensor(towards))
            is_better = (_times(near, own) == wanted) & (_times(found, own) != wanted)
            found = torch.where(is_better, near, found)
    return found


def _times(values: torch.Tensor, factor: float) -> torch.Tensor:
    """As adapter files are written: in fp64, rounded to fp32."""
    return (values.double() * factor).float()
