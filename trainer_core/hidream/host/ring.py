"""Copies weights from the host to the device shortly before they are used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from trainer_core.hidream.host.slots import Slots


class Ring:
    """Items of host memory that take turns in a few slots of device memory.

    Item n is always copied into slot n mod the number of slots, so a tensor that is a view of the
    slot holds the item's values within ``use``, and CUDA graphs find it at one address.

    - Within ``forward`` items are used in ascending order, each at most once. A slot gets its next
      item as soon as its last one is released.
    - The backward pass of that forward uses items again, in descending order.
    - Any other use copies the item first. It is right, but nothing hides the copy.
    """

    def __init__(self, items: Sequence[torch.Tensor], slots: Slots) -> None:
        """``items``: uint8, each at most as large as its slot; pinned, if the slots are on cuda."""
        self._items = items
        self._slots = slots
        self._held: list[int | None] = [None for _ in slots.memory]
        """The item that is in each slot, or on its way there."""
        self._is_forward = False
        self._used_again: set[int] = set()
        """Items that the backward pass of the last forward has still to use."""

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Inside, items are used in ascending order."""
        self._start()
        self._is_forward = True
        for item in range(min(len(self._items), len(self._held))):
            self._fill(item)
        try:
            yield
        finally:
            self._is_forward = False
            self._slots.finish()

    @contextmanager
    def use(self, item: int, *, again: bool = False) -> Iterator[None]:
        """Inside, the item is in its slot. ``again``: the backward pass will use it too."""
        if not self._is_forward:
            self._start()
        if again:
            self._used_again.add(item)
        following = item + len(self._held)
        copies_ahead = self._is_forward and following < len(self._items)
        with self._present(item, following if copies_ahead else None):
            yield

    @contextmanager
    def use_again(self, item: int) -> Iterator[None]:
        """As ``use``, in the backward pass."""
        self._used_again.discard(item)
        following = item - len(self._held)
        with self._present(item, following if following in self._used_again else None):
            yield

    @contextmanager
    def _present(self, item: int, following: int | None) -> Iterator[None]:
        slot = item % len(self._held)
        if self._held[slot] != item:
            self._fill(item)
        self._slots.wait(slot)
        try:
            yield
        finally:
            self._slots.release(slot)
            if following is not None:
                self._fill(following)

    def _start(self) -> None:
        # What the slots hold is not known: a replayed graph changes it without calling anything.
        self._held = [None for _ in self._held]
        self._used_again.clear()
        self._slots.start()

    def _fill(self, item: int) -> None:
        slot = item % len(self._held)
        self._slots.fill(slot, self._items[item])
        self._held[slot] = item
