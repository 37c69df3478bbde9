"""Optimizer state as named tensors, bit for bit, in the optimizer's own number types.

torch's ``load_state_dict`` casts floating-point state to the parameter's type. This module casts
nothing. Keys:

- ``optim/<parameter>/<field>``: a tensor of one parameter's state.
- ``optim_number/<parameter>/<field>``: a Python number of one parameter's state, such as a count of
  steps, as int64 or float64.
- ``optim_group/<field>``: a Python number that all parameters share, such as Prodigy's estimate.
- ``optim_group_tensor/<field>``: a tensor that all parameters share, such as optimi AdamW's count.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import torch
from torch import nn

from trainer_core.errors import CheckpointError

TENSOR: Final = "optim/"
NUMBER: Final = "optim_number/"
GROUP: Final = "optim_group/"
GROUP_TENSOR: Final = "optim_group_tensor/"

_COUNT: Final = "step"
_GROUP_STATE: Final = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k", _COUNT)
"""Fields of a parameter group that a step changes: Prodigy's estimate, optimi's count of steps.

The other fields are settings from the plan and are not saved.
"""
_ONLY_OF_8BIT: Final = frozenset({"qmap1", "absmax1"})
"""Fields that bitsandbytes has only for 8-bit state."""


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """All state that a step changes; empty before the first step.

    Fields that are None (Lion's compensation of fp32 weights) are left out.
    ``load_state_tensors`` adds them again.
    """
    found: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        for field, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                # All parameters share one map, and safetensors stores no shared tensors.
                tensor = value.detach().clone() if field == "qmap1" else value.detach()
                found[f"{TENSOR}{name}/{field}"] = tensor
            elif isinstance(value, int | float):
                found[f"{NUMBER}{name}/{field}"] = _number_tensor(value)
    if found:
        (group,) = optimizer.param_groups
        for field in _GROUP_STATE:
            value = group.get(field)
            if isinstance(value, torch.Tensor):
                found[f"{GROUP_TENSOR}{field}"] = value.detach()
            elif value is not None:
                found[f"{GROUP}{field}"] = _number_tensor(value)
    return found


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Restore what ``state_tensors`` returned, into an optimizer that has not taken a step.

    Raises CheckpointError where a tensor is of no known parameter, or a parameter lacks fields that
    other parameters have.
    """
    keys: dict[str, dict[str, str]] = {}
    """Of each parameter, by field. Values are read later, so that memory holds those of one."""
    group: dict[str, torch.Tensor | int | float] = {}
    for key in tensors:
        if key.startswith(GROUP_TENSOR):
            group[key.removeprefix(GROUP_TENSOR)] = tensors[key].clone()
        elif key.startswith(GROUP):
            group[key.removeprefix(GROUP)] = tensors[key].item()
        else:
            prefix = NUMBER if key.startswith(NUMBER) else TENSOR
            name, _, field = key.removeprefix(prefix).rpartition("/")
            if name not in parameters:
                raise CheckpointError(f"optimizer state of {name}, which is not trained here")
            keys.setdefault(name, {})[field] = key
    if not keys:
        return
    fields = set().union(*keys.values()) - _ONLY_OF_8BIT
    for name, parameter in parameters.items():
        own = {field: _stored(tensors, key) for field, key in keys.get(name, {}).items()}
        wanted = fields | (_ONLY_OF_8BIT if _is_8bit(own) else set())
        if missing := wanted - own.keys():
            raise CheckpointError(f"no optimizer state {sorted(missing)} of {name}")
        state: MutableMapping[str, Any] = optimizer.state[parameter]
        for field, each in own.items():
            state[field] = (
                _placed(optimizer, parameter, field, each)
                if isinstance(each, torch.Tensor)
                else each
            )
        complete_state(optimizer, state)
    restore_group(optimizer, group)


def _stored(tensors: Mapping[str, torch.Tensor], key: str) -> torch.Tensor | int | float:
    return tensors[key].item() if key.startswith(NUMBER) else tensors[key]


def group_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Field → tensor that all parameters share; views."""
    (group,) = optimizer.param_groups
    found = {field: group.get(field) for field in _GROUP_STATE}
    return {field: each.detach() for field, each in found.items() if isinstance(each, torch.Tensor)}


def set_count(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Set the count of updates so far, where it is one for all parameters.

    DeepSpeed updates parts of the weights one after another, and the optimizer counts each time.
    """
    for group in optimizer.param_groups:
        if isinstance(count := group.get(_COUNT), torch.Tensor):
            count.fill_(updates)


def complete_state(optimizer: torch.optim.Optimizer, state: MutableMapping[str, Any]) -> None:
    """Add the fields that the optimizer needs and ``state_tensors`` leaves out."""
    if _is_optimi(optimizer):
        # Without this field optimi takes the state for a new one and zeroes its averages.
        state.setdefault("kahan_comp", None)


def restore_group(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, torch.Tensor | int | float]
) -> None:
    """Set numbers of the one group of an optimizer that has not taken a step.

    ``saved``: by their fields.
    """
    (group,) = optimizer.param_groups
    group.update(saved)
    if _is_optimi(optimizer) and "step" in saved:
        # optimi sets its count to 0 in a group that is not marked as set up.
        group["setup"] = True


def _placed(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, field: str, value: torch.Tensor
) -> torch.Tensor:
    """A copy of a tensor on the device where the optimizer keeps this field."""
    if field == "step":  # torch keeps AdamW's count on the CPU, whatever the parameter's device
        return value.to("cpu", copy=True)
    if field == "state1" and hasattr(optimizer, "get_state_buffer"):
        buffer: torch.Tensor = optimizer.get_state_buffer(parameter, dtype=value.dtype)
        if parameter.is_cuda:
            # The device fills a paged buffer with zeros, and the host writes to it here.
            torch.cuda.synchronize(parameter.device)
        return buffer.copy_(value)
    return value.to(parameter.device, copy=True)


def _is_8bit(fields: Mapping[str, torch.Tensor | int | float]) -> bool:
    state = fields.get("state1")
    return isinstance(state, torch.Tensor) and state.dtype is torch.uint8


def _is_optimi(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__module__.startswith("optimi")


def _number_tensor(value: float) -> torch.Tensor:
    """The exact number: int64 for an int, float64 for a float."""
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
