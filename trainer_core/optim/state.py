"""Optimizer state as plain tensors by name, bit for bit, in the types in which it is held.

torch's own `load_state_dict` casts floating state to the parameter's type; this loader casts
nothing.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer_core.errors import CheckpointError


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """``<name>/<field>`` → tensor; empty before the first update.

    Fields that hold None (Lion's compensation of fp32 weights) are left out and made again.
    """
    return {
        f"{name}/{field}": value.detach()
        for name, parameter in parameters.items()
        for field, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """The opposite of ``state_tensors``; the optimizer must not have taken a step.

    Raises CheckpointError where a tensor belongs to no parameter, or some parameter lacks fields
    that others have.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"optimizer state of {name}, which is not trained in this run")
        found.setdefault(name, {})[field] = value
    if not found:
        return
    fields = set().union(*found.values())
    for name, parameter in parameters.items():
        missing = fields - found.get(name, {}).keys()
        if missing:
            raise CheckpointError(f"no optimizer state {sorted(missing)} of {name}")
        _put(optimizer, parameter, found[name])


def _put(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, fields: Mapping[str, torch.Tensor]
) -> None:
    state: dict[str, Any] = optimizer.state[parameter]
    for field, value in fields.items():
        # torch keeps the step count of AdamW on the CPU, whatever the parameter's device.
        device = torch.device("cpu") if value.ndim == 0 else parameter.device
        state[field] = value.to(device, copy=True)
    if "exp_avg" in fields and "kahan_comp" in _fields_of(optimizer):
        state.setdefault("kahan_comp", None)


def _fields_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """optimi takes state without this field for uninitialised, and would zero its averages."""
    return ("kahan_comp",) if type(optimizer).__module__.startswith("optimi") else ()
