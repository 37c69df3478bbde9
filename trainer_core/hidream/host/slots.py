"""Memory on the device that weights of the host are copied into, and the copies.

On cuda copies run on a stream of their own, beside the computation. A CUDA graph may capture them:
they wait for events only, and all addresses stay the same.
"""

from collections.abc import Sequence
from typing import Protocol

import torch


class Slots(Protocol):
    """Buffers that are filled again and again.

    Between ``fill`` and ``wait`` the content of a slot is undefined. It is read between ``wait``
    and ``release``, and stays until the next ``fill``.
    """

    @property
    def memory(self) -> Sequence[torch.Tensor]:
        """uint8, one buffer a slot."""

    def start(self) -> None:
        """Order later copies behind all work so far, and forget what was released."""

    def fill(self, slot: int, source: torch.Tensor) -> None:
        """Copy uint8 values of the host into the slot, once its readers have released it."""

    def wait(self, slot: int) -> None:
        """Order later work of the current stream behind the slot's last copy."""

    def release(self, slot: int) -> None:
        """The work so far of the current stream has read the slot for the last time."""

    def finish(self) -> None:
        """Order later work of the current stream behind all copies."""


def open_slots(sizes_bytes: Sequence[int], device: torch.device) -> Slots:
    if device.type == "cuda":
        return CudaSlots(sizes_bytes, device)
    return CpuSlots(sizes_bytes)


class CpuSlots:
    """Each copy is complete when ``fill`` returns."""

    def __init__(self, sizes_bytes: Sequence[int]) -> None:
        self.memory = [torch.empty(size, dtype=torch.uint8) for size in sizes_bytes]

    def start(self) -> None:
        pass

    def fill(self, slot: int, source: torch.Tensor) -> None:
        self.memory[slot][: len(source)].copy_(source)

    def wait(self, slot: int) -> None:
        pass

    def release(self, slot: int) -> None:
        pass

    def finish(self) -> None:
        pass


class CudaSlots:
    """Copies run beside the current stream; their sources have to be pinned."""

    def __init__(self, sizes_bytes: Sequence[int], device: torch.device) -> None:
        self.memory = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes_bytes]
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._filled = [torch.cuda.Event() for _ in sizes_bytes]  # type: ignore[no-untyped-call]
        self._released = [torch.cuda.Event() for _ in sizes_bytes]  # type: ignore[no-untyped-call]
        self._is_released = [False for _ in sizes_bytes]

    def start(self) -> None:
        # A graph cannot wait for an event from before its capture. This orders the copies too.
        self._copies.wait_stream(torch.cuda.current_stream())
        self._is_released = [False for _ in self.memory]

    def fill(self, slot: int, source: torch.Tensor) -> None:
        if self._is_released[slot]:
            self._copies.wait_event(self._released[slot])
        with torch.cuda.stream(self._copies):
            self.memory[slot][: len(source)].copy_(source, non_blocking=True)
        self._filled[slot].record(self._copies)

    def wait(self, slot: int) -> None:
        torch.cuda.current_stream().wait_event(self._filled[slot])

    def release(self, slot: int) -> None:
        self._released[slot].record(torch.cuda.current_stream())
        self._is_released[slot] = True

    def finish(self) -> None:
        torch.cuda.current_stream().wait_stream(self._copies)
