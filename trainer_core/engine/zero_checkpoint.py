"""What one rank under DeepSpeed ZeRO writes to a checkpoint, and reads from one: its own parts.

Nothing is exchanged between the ranks, and nothing is held twice: what is written are views of the
shards, and what is read is copied into them, one part after the other.
"""

from collections.abc import MutableMapping
from typing import Any, Final

import torch

from trainer_core.checkpoint.layout import EMA, PARAMETER
from trainer_core.checkpoint.read import Checkpoint, StoredTensors
from trainer_core.checkpoint.state_files import Place
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.engine.step import check_same_names
from trainer_core.engine.zero_shards import WeightShards
from trainer_core.errors import CheckpointError
from trainer_core.optim.ema import Ema
from trainer_core.optim.state import (
    GROUP_TENSOR,
    TENSOR,
    complete_state,
    group_tensors,
    restore_group,
)

_SCALAR: Final[tuple[int, ...]] = ()


def trained_tensors(
    shards: WeightShards, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> TrainedTensors:
    """This rank's parts of all parameters, and of their optimizer state and means: views.

    What every rank has whole, such as AdamW's count of updates, is rank 0's.
    """
    is_first = torch.distributed.get_rank() == 0
    own = _OwnTensors(shards, is_first=is_first)
    parameters = own.of([leaf.detach() for leaf in shards.leaves], PARAMETER, "")
    state: dict[str, torch.Tensor] = {}
    fields, counts = _fields(shards, optimizer)
    for field in fields:
        tensors = [optimizer.state[leaf][field] for leaf in shards.leaves]
        found = own.of(tensors, TENSOR, f"/{field}")
        state |= {f"{TENSOR}{name}/{field}": tensor for name, tensor in found.items()}
    if is_first:
        state |= {
            f"{TENSOR}{name}/{field}": value.clone()
            for name in shards.named
            for field, value in counts.items()
        }
        shared = group_tensors(optimizer)
        state |= {f"{GROUP_TENSOR}{field}": value.clone() for field, value in shared.items()}
    return TrainedTensors(
        parameters=parameters,
        optimizer_state=state,
        ema=own.of(ema.means, EMA, "") if ema else {},
        parts=own.parts,
        is_sharded=shards.is_sharded,
    )


class _OwnTensors:
    """Names this rank's tensors, and notes which of them are parts."""

    def __init__(self, shards: WeightShards, *, is_first: bool) -> None:
        self._shards = shards
        self._is_first = is_first
        self.parts: dict[str, Place] = {}
        """By name in the file."""

    def of(self, tensors: list[torch.Tensor], prefix: str, suffix: str) -> dict[str, torch.Tensor]:
        """Of tensors that are shaped like the shards, by the parameters' names.

        ``prefix`` and ``suffix``: around a parameter's name in the file.
        """
        found = {}
        for name, values in self._shards.by_name(tensors).items():
            part, shape = self._shards.parts[name], self._shards.shapes[name]
            if part.is_whole and not self._is_first:
                continue
            if part.size == shape.numel():
                found[name] = values.view(shape)
                continue
            found[name] = values
            place = Place(start=part.parameter_start, shape=tuple(shape))
            self.parts[f"{prefix}{name}{suffix}"] = place
        return found


def load(
    shards: WeightShards,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    checkpoint: Checkpoint,
) -> None:
    """Restore this rank's parts; the model itself is not changed: see ``WeightShards.publish``.

    Raises CheckpointError where names, shapes or types differ.
    """
    check_same_names(shards.named, checkpoint.parameters)
    state, fields = checkpoint.optimizer_state, _stored_fields(shards, checkpoint.optimizer_state)
    _read(shards, [leaf.detach() for leaf in shards.leaves], checkpoint.parameters, "")
    for field, example in fields.items():
        if state.facts(example).shape == _SCALAR:
            for leaf in shards.leaves:
                optimizer.state[leaf][field] = state[example]
        else:
            tensors = [_state_of(optimizer, leaf, field) for leaf in shards.leaves]
            _read(shards, tensors, state, TENSOR, f"/{field}")
    shared = [key for key in state if key.startswith(GROUP_TENSOR)]
    restore_group(optimizer, {key.removeprefix(GROUP_TENSOR): state[key] for key in shared})
    for leaf in shards.leaves:
        complete_state(optimizer, optimizer.state[leaf])
    if ema is not None:
        _read(shards, ema.means, checkpoint.ema, "")


def _read(
    shards: WeightShards,
    tensors: list[torch.Tensor],
    stored: StoredTensors,
    prefix: str,
    suffix: str = "",
) -> None:
    """Read this rank's parts to their places in tensors that are shaped like the shards.

    ``prefix`` and ``suffix``: around a parameter's name in ``stored``.
    """
    wanted = {}
    for name, into in shards.by_name(tensors).items():
        key, shape = f"{prefix}{name}{suffix}", tuple(shards.shapes[name])
        if key in stored and stored.facts(key).shape != shape:
            there = stored.facts(key).shape
            raise CheckpointError(f"{key} is {there} in the checkpoint, and {shape} here")
        wanted[key] = (shards.parts[name].parameter_start, into)
    stored.read_into(wanted, tensors[0].device)


def _fields(
    shards: WeightShards, optimizer: torch.optim.Optimizer
) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Names of the state fields that lie like a shard, and the fields of one number."""
    values = optimizer.state.get(shards.leaves[0], {})
    tensors = {f: v for f, v in values.items() if isinstance(v, torch.Tensor)}
    counts = {field: value for field, value in tensors.items() if value.shape == _SCALAR}
    return sorted(tensors.keys() - counts.keys()), counts


def _stored_fields(shards: WeightShards, stored: StoredTensors) -> dict[str, str]:
    """The fields of the optimizer state in a checkpoint, each with one of its names there."""
    fields: dict[str, str] = {}
    for key in stored:
        if key.startswith(GROUP_TENSOR):
            continue
        name, _, field = key.removeprefix(TENSOR).rpartition("/")
        if not key.startswith(TENSOR) or name not in shards.named:
            raise CheckpointError(f"optimizer state {key}, which is not trained here")
        fields[field] = key
    return fields


def _state_of(optimizer: torch.optim.Optimizer, leaf: torch.Tensor, field: str) -> torch.Tensor:
    """A field of a shard's state; made where the optimizer has not taken a step."""
    fields: MutableMapping[str, Any] = optimizer.state[leaf]
    if not isinstance(fields.get(field), torch.Tensor):
        fields[field] = torch.zeros_like(leaf, requires_grad=False)
    found: torch.Tensor = fields[field]
    return found
