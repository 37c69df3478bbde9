"""What of a transformer the host holds: linears of the conditioning, and whole blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import HiDreamBlock
from torch import nn

from trainer_core.adapters.attach import base_of
from trainer_core.adapters.places import linear_at, parent_of
from trainer_core.hidream.host.moving import OpenSlots, Stack, held_by_host
from trainer_core.hidream.host.ring import Ring
from trainer_core.hidream.host.slots import open_slots as slots_on
from trainer_core.hidream.stacks import linear_stacks
from trainer_core.memory.fused_weights import RING_BLOCKS, STAGED_LINEARS


@dataclass(frozen=True, kw_only=True, slots=True)
class HostWeights:
    """The rings that bring weights to the device; without any, the methods do nothing."""

    conditioning: Ring | None = None
    blocks: Ring | None = None
    items: Mapping[int, int] = field(default_factory=dict)
    """Number of an offloaded block → its item of the ring ``blocks``."""

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Inside, weights are copied ahead of their use; as ``Ring.forward``."""
        with ExitStack() as stack:
            for ring in (self.conditioning, self.blocks):
                if ring is not None:
                    stack.enter_context(ring.forward())
            yield

    def block(self, number: int, *, again: bool) -> AbstractContextManager[None]:
        """Inside, the block's weights are on the device; as ``Ring.use``."""
        if self.blocks is None or number not in self.items:
            return nullcontext()
        return self.blocks.use(self.items[number], again=again)

    def block_again(self, number: int) -> AbstractContextManager[None]:
        """The same in the backward pass; as ``Ring.use_again``."""
        if self.blocks is None or number not in self.items:
            return nullcontext()
        return self.blocks.use_again(self.items[number])


ALL_ON_DEVICE: Final = HostWeights()
"""Nothing is held by the host."""


class StreamedLinear(nn.Module):
    """A frozen linear layer whose weight is copied to the device for each use."""

    def __init__(self, linear: nn.Module, ring: Ring, item: int) -> None:
        super().__init__()
        self.linear = linear
        self._ring = ring
        self._item = item

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """As the linear layer; without a gradient, which would need the weight again."""
        assert not input_.requires_grad
        with self._ring.use(self._item):
            output: torch.Tensor = self.linear(input_)
        return output


class OffloadedBlock(HiDreamBlock):  # type: ignore[misc]
    """diffusers' holder of a block, with the block's weights brought to the device.

    Only diffusers' own forward calls it, to draw samples.
    """

    def __init__(self, block: nn.Module, weights: HostWeights, number: int) -> None:
        super().__init__(block)
        self._weights = weights
        self._number = number

    def forward(self, *args: Any, **named: Any) -> Any:
        """As diffusers' ``HiDreamBlock``."""
        with self._weights.block(self._number, again=False):
            return super().forward(*args, **named)


def hold_on_host(
    transformer: HiDreamImageTransformer2DModel,
    *,
    streamed: Sequence[str],
    offloaded: Mapping[int, Sequence[str]],
    device: torch.device,
    open_slots: OpenSlots = slots_on,
) -> HostWeights:
    """Move weights to the host, and replace what uses them in the transformer.

    Adapters are attached before, because a start value may be a function of the base's weight, and
    the fused blocks are built after it.

    Args:
        transformer: its base is frozen.
        streamed: paths of conditioning linears without adapters, in the order of their use.
        offloaded: number of a block → paths of its linears of attention and feed-forward.
        device: where the transformer computes.
        open_slots: allocates memory on the device.
    """
    conditioning = blocks = None
    if streamed:
        groups = [[[linear_at(transformer, path)]] for path in streamed]
        conditioning = held_by_host(
            groups, most_slots=STAGED_LINEARS, device=device, open_slots=open_slots
        )
        for item, path in enumerate(streamed):
            parent, name = parent_of(transformer, path)
            linear = StreamedLinear(linear_at(transformer, path), conditioning, item)
            parent.register_module(name, linear)
    numbers = sorted(offloaded)
    if offloaded:
        stacks = linear_stacks(transformer)
        blocks = held_by_host(
            [_stacked(transformer, offloaded[number], stacks) for number in numbers],
            most_slots=RING_BLOCKS,
            device=device,
            open_slots=open_slots,
        )
    weights = HostWeights(
        conditioning=conditioning,
        blocks=blocks,
        items={number: item for item, number in enumerate(numbers)},
    )
    for number in numbers:
        _replace_holder(transformer, number, weights)
    return weights


def _stacked(
    transformer: nn.Module, paths: Sequence[str], stacks: Sequence[tuple[str, ...]]
) -> list[Stack]:
    """The base linears at the paths, those together that are multiplied together."""
    own = [stack for stack in stacks if stack[0] in paths]
    in_stacks = {path for stack in own for path in stack}
    alone = [(path,) for path in paths if path not in in_stacks]
    return [
        [base_of(transformer.get_submodule(path)) for path in stack] for stack in (*own, *alone)
    ]


def _replace_holder(
    transformer: HiDreamImageTransformer2DModel, number: int, weights: HostWeights
) -> None:
    doubles = len(transformer.double_stream_blocks)
    holders, index = transformer.double_stream_blocks, number
    if number >= doubles:
        holders, index = transformer.single_stream_blocks, number - doubles
    mode = holders[index].training
    holders[index] = OffloadedBlock(holders[index].block, weights, number).train(mode)
