"""Optimizer state as plain tensors by name, bit for bit, in the types in which it is held.

torch's own `load_state_dict` casts floating state to the parameter's type; this loader casts
nothing. Keys:

- ``optim/<name>/<field>``: a tensor of one parameter's state, as it is.
- ``optim_number/<name>/<field>``: a Python number of it (a count of steps), int64 or float64.
- ``optim_group/<field>``: a number that all parameters share (Prodigy's estimate), likewise.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from trainer_core.errors import CheckpointError

TENSOR: Final = "optim/"
NUMBER: Final = "optim_number/"
GROUP: Final = "optim_group/"

_GROUP_NUMBERS: Final = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")
"""What Prodigy changes in its group; no other optimizer has these fields."""
_ONLY_OF_8BIT: Final = frozenset({"qmap1", "absmax1"})
"""Fields of bitsandbytes that parameters with 32-bit state lack."""


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """All that a step changes in the optimizer; empty before the first update.

    Fields that hold None (Lion's compensation of fp32 weights) are left out and made again.
    """
    found: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        for field, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                # bitsandbytes shares one map among all parameters; a file holds no shared tensors.
                tensor = value.detach().clone() if field == "qmap1" else value.detach()
                found[f"{TENSOR}{name}/{field}"] = tensor
            elif isinstance(value, int | float):
                found[f"{NUMBER}{name}/{field}"] = _number_tensor(value)
    if found:
        (group,) = optimizer.param_groups
        for field in _GROUP_NUMBERS:
            if field in group:
                found[f"{GROUP}{field}"] = _number_tensor(group[field])
    return found


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """The opposite of ``state_tensors``; the optimizer must not have taken a step.

    Raises CheckpointError where a tensor belongs to no parameter, or some parameter lacks fields
    that others have.
    """
    found: dict[str, dict[str, torch.Tensor | int | float]] = {}
    group: dict[str, int | float] = {}
    for key, value in tensors.items():
        if key.startswith(GROUP):
            group[key.removeprefix(GROUP)] = value.item()
            continue
        is_number = key.startswith(NUMBER)
        name, _, field = key.removeprefix(NUMBER if is_number else TENSOR).rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"optimizer state of {name}, which is not trained in this run")
        found.setdefault(name, {})[field] = value.item() if is_number else value
    if not found:
        return
    fields = set().union(*found.values()) - _ONLY_OF_8BIT
    for name, parameter in parameters.items():
        own = found.get(name, {})
        wanted = fields | (_ONLY_OF_8BIT if _is_8bit(own) else set())
        if missing := wanted - own.keys():
            raise CheckpointError(f"no optimizer state {sorted(missing)} of {name}")
        _put(optimizer, parameter, own)
    optimizer.param_groups[0].update(group)


def _put(
    optimizer: torch.optim.Optimizer,
    parameter: nn.Parameter,
    fields: Mapping[str, torch.Tensor | int | float],
) -> None:
    state: dict[str, Any] = optimizer.state[parameter]
    for field, value in fields.items():
        state[field] = (
            value
            if not isinstance(value, torch.Tensor)
            else _home(optimizer, parameter, field, value)
        )
    if "exp_avg" in fields and "kahan_comp" in _fields_of(optimizer):
        state.setdefault("kahan_comp", None)


def _home(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, field: str, value: torch.Tensor
) -> torch.Tensor:
    """A copy where the optimizer keeps this field."""
    if field == "step":  # torch keeps AdamW's count on the CPU, whatever the parameter's device
        return value.to("cpu", copy=True)
    if field == "state1" and hasattr(optimizer, "get_state_buffer"):
        buffer: torch.Tensor = optimizer.get_state_buffer(parameter, dtype=value.dtype)
        if parameter.is_cuda:
            # A paged buffer is filled with zeros by the device, and written to by the host here.
            torch.cuda.synchronize(parameter.device)
        return buffer.copy_(value)
    return value.to(parameter.device, copy=True)


def _is_8bit(fields: Mapping[str, torch.Tensor | int | float]) -> bool:
    state = fields.get("state1")
    return isinstance(state, torch.Tensor) and state.dtype is torch.uint8


def _number_tensor(value: float) -> torch.Tensor:
    """Exactly that number; its type says whether it was an int."""
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _fields_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """optimi takes state without this field for uninitialised, and would zero its averages."""
    return ("kahan_comp",) if type(optimizer).__module__.startswith("optimi") else ()
