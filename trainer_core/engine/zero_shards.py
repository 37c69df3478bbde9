"""The fp32 weights that one rank updates under DeepSpeed ZeRO: its shards.

A shard is a flat tensor with parts of many parameters, one after another, and padding. Optimizer
state and running means lie exactly like it. Without stages 1 to 3 a shard is a whole parameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPart:
    """Where a rank keeps its part of a parameter. Offsets and sizes are in elements."""

    shard: int
    """Number of the shard, from 0."""
    shard_start: int
    parameter_start: int
    """Where the part starts in the flattened parameter."""
    size: int
    is_whole: bool
    """Whether every rank has all of the parameter, and not a part of its own."""


class WeightShards:
    """The shards of one rank, as ``ParameterTensors``."""

    def __init__(
        self,
        engine: Any,
        optimizer: torch.optim.Optimizer,
        named: Mapping[str, nn.Parameter],
        device: torch.device,
    ) -> None:
        """
        Args:
            engine: DeepSpeed's.
            optimizer: the one that it steps on the shards.
            named: the model's parameters, in the order in which the optimizer got them.
            device: of the model; the shards may be on the CPU.
        """
        self._engine = engine
        self._named = named
        self._device = device
        self._stage: int = engine.zero_optimization_stage()
        self._leaves: list[Any] = (
            engine.optimizer.fp32_partitioned_groups_flat
            if self._stage == 3
            else [each for group in optimizer.param_groups for each in group["params"]]
        )
        self.parts: Mapping[str, ShardPart] = dict(self._find_parts())
        """Of the parameters that this rank has a part of."""
        self.shapes: Mapping[str, torch.Size] = {
            name: getattr(parameter, "ds_shape", parameter.shape)
            for name, parameter in named.items()
        }
        """Of the whole parameters."""

    @property
    def named(self) -> Mapping[str, nn.Parameter]:
        """The parameters by logical name; under stage 3 they may have no elements now."""
        return self._named

    @property
    def leaves(self) -> Sequence[nn.Parameter]:
        """The shards."""
        return self._leaves

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has parts of its own, and not all of every parameter."""
        return self._stage > 0

    def by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """This rank's parts of tensors that are shaped like the shards: flat views."""
        return {
            name: tensors[part.shard].view(-1).narrow(0, part.shard_start, part.size)
            for name, part in self.parts.items()
        }

    def for_checkpoint(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """``by_name``."""
        return self.by_name(tensors)

    def clear_gradients(self) -> None:
        """DeepSpeed clears them."""

    def publish(self) -> None:
        """Give the model, on every rank, the weights that the shards of all ranks hold now."""
        sharding = self._engine.optimizer
        if self._stage == 3:
            sharding._partition_all_parameters()
            for number in range(len(self._leaves)):
                sharding._reassign_or_swap_out_partitioned_parameters(number)
            if kept := sharding.persistent_parameters:
                kept[0].all_gather(kept)
        elif self._stage > 0:
            sharding.update_lp_params()
        else:
            with torch.no_grad():
                for parameter, leaf in zip(self._named.values(), self._leaves, strict=True):
                    if parameter is not leaf:  # DeepSpeed keeps fp32 copies of bf16 weights
                        parameter.copy_(leaf)

    def whole(self, name: str) -> torch.Tensor:
        """A parameter whole, on every rank: all call it for the same one."""
        part, shape = self.parts.get(name), self.shapes[name]
        if part is not None and part.is_whole:
            return self._own(part).view(shape)
        full = torch.zeros(shape, dtype=self._leaves[0].dtype, device=self._device)
        if part is not None:
            full.view(-1).narrow(0, part.parameter_start, part.size).copy_(self._own(part))
        # As integers: a sum of numbers would make 0 of -0.
        torch.distributed.all_reduce(full.view(-1).view(torch.uint8))
        return full

    def _own(self, part: ShardPart) -> torch.Tensor:
        values: torch.Tensor = self._leaves[part.shard].detach()
        return values.view(-1).narrow(0, part.shard_start, part.size)

    def _find_parts(self) -> Iterator[tuple[str, ShardPart]]:
        for number, (name, parameter) in enumerate(self._named.items()):
            part = self._part(number, parameter)
            if part is not None and part.size > 0:
                yield name, part

    def _part(self, number: int, parameter: nn.Parameter) -> ShardPart | None:
        if self._stage == 0:
            return _whole_part(number, parameter)
        return self._stage_3_part(parameter) if self._stage == 3 else _flat_part(parameter)

    def _stage_3_part(self, parameter: Any) -> ShardPart:
        """Every rank has as much of each parameter; what is missing at its end is padded."""
        sharding = self._engine.optimizer
        shard, start, size = sharding.grad_position[sharding.get_param_id(parameter)]
        before = size * torch.distributed.get_rank()
        return ShardPart(
            shard=shard,
            shard_start=start,
            parameter_start=before,
            size=min(size, parameter.ds_numel - before),
            is_whole=False,
        )


def _whole_part(number: int, parameter: nn.Parameter) -> ShardPart:
    return ShardPart(
        shard=number, shard_start=0, parameter_start=0, size=parameter.numel(), is_whole=True
    )


def _flat_part(parameter: Any) -> ShardPart | None:
    """Stages 1 and 2 cut the row of all parameters into equal shards, wherever that falls."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    return ShardPart(
        shard=mapping.param_group_index,
        shard_start=mapping.hp_fragment_address.start,
        parameter_start=mapping.lp_fragment_address.start,
        size=mapping.lp_fragment_address.numel,
        is_whole=False,
    )
