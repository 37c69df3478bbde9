"""Moves the weights of linears into the memory of the host."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from trainer_core.hidream.host.ring import Ring
from trainer_core.hidream.host.slots import Slots
from trainer_core.precision.linear8 import Linear8

_ALIGNMENT_BYTES: Final = 512
"""As of torch's allocations on cuda, so that products choose the kernels that they would there."""

Stack = Sequence[nn.Module]
"""Linears whose weights lie one behind the other, because one product multiplies them."""
OpenSlots = Callable[[Sequence[int], torch.device], Slots]
"""As ``slots.open_slots``."""


def held_by_host(
    groups: Sequence[Sequence[Stack]],
    *,
    most_slots: int,
    device: torch.device,
    open_slots: OpenSlots,
) -> Ring:
    """Move the weights of each group of linears to the host, as one item of a ring.

    Afterwards each weight is a view of its slot: its values are there while the item is used.
    Biases stay where they are.

    Args:
        groups: frozen ``nn.Linear`` or ``Linear8``, on any device; at least one group.
        most_slots: how many items the device holds at once.
        device: of the slots.
        open_slots: allocates them.
    """
    sizes = [_size_bytes(stacks) for stacks in groups]
    count = min(most_slots, len(groups))
    slots = open_slots([max(sizes[slot::count]) for slot in range(count)], device)
    # Not torch.empty: where kernels have to be deterministic, it writes to all of the memory.
    storage = torch.UntypedStorage(sum(sizes))  # type: ignore[no-untyped-call]
    memory = torch.empty(0, dtype=torch.uint8).set_(storage)
    items = torch.split(memory, sizes)
    for number, stacks in enumerate(groups):
        for place in _places(stacks):
            place.move(items[number], slots.memory[number % count])
    ring = Ring(items, slots)
    if device.type == "cuda":
        _pin(memory, ring)
    return ring


class _Place(NamedTuple):
    """Where one weight lies in the memory of its group."""

    linear: nn.Module
    name: str
    start_bytes: int

    @property
    def tensor(self) -> torch.Tensor:
        found: torch.Tensor = getattr(self.linear, self.name)
        return found.detach()

    @property
    def end_bytes(self) -> int:
        return self.start_bytes + self.tensor.nbytes

    def move(self, item: torch.Tensor, slot: torch.Tensor) -> None:
        """Copy the weight into ``item``, and let the linear hold a view of ``slot`` instead."""
        self._in(item).copy_(self.tensor)
        view = self._in(slot)
        is_parameter = isinstance(getattr(self.linear, self.name), nn.Parameter)
        setattr(
            self.linear,
            self.name,
            nn.Parameter(view, requires_grad=False) if is_parameter else view,
        )

    def _in(self, memory: torch.Tensor) -> torch.Tensor:
        part = memory[self.start_bytes : self.end_bytes]
        return part.view(self.tensor.dtype).view(self.tensor.shape)


def _places(stacks: Sequence[Stack]) -> Iterator[_Place]:
    end_bytes = 0
    for stack in stacks:
        for name in ("rows8", "scale") if isinstance(stack[0], Linear8) else ("weight",):
            end_bytes = _aligned(end_bytes)
            for linear in stack:
                place = _Place(linear, name, end_bytes)
                end_bytes = place.end_bytes
                yield place


def _size_bytes(stacks: Sequence[Stack]) -> int:
    return _aligned(max(place.end_bytes for place in _places(stacks)))


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _pin(memory: torch.Tensor, owner: Ring) -> None:
    """Page-lock memory until its owner is gone.

    torch's own pinned memory has a power of two of bytes: up to twice as many.
    """
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = memory.data_ptr()
    torch.cuda.check_error(cudart.cudaHostRegister(address, memory.nbytes, 0))
    unpin = weakref.finalize(owner, cudart.cudaHostUnregister, address)
    unpin.atexit = False
