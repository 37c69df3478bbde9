"""Copies between a file and a device, for one thread.

The bytes of a cuda tensor pass through pinned memory of a fixed size, so that the copy to the
device runs while the next bytes are read.
"""

import os
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

import torch

from trainer_core.errors import BaseModelError
from trainer_core.weights.headers import StoredTensor

_CHUNK_BYTES: Final = 32 << 20


class Staging(Protocol):
    """Moves tensors between open files and one device; used by one thread."""

    def read(self, descriptor: int, stored: StoredTensor, into: torch.Tensor) -> None:
        """Read a stored tensor's bytes ``into`` a tensor of as many uint8 on the device.

        On cuda the copy may not be complete yet; it is ordered before later work of the thread's
        stream. Raises BaseModelError where the file ends early or the checksum is another one.
        """

    def write(self, descriptor: int, offset_bytes: int, values: torch.Tensor) -> int:
        """Write uint8 values into a file; returns their CRC-32. Raises OSError."""


def staging_for(device: torch.device) -> Staging:
    return _PinnedStaging() if device.type == "cuda" else _HostStaging()


class _HostStaging:
    """For the CPU: the bytes need no other memory than the tensor's."""

    def read(self, descriptor: int, stored: StoredTensor, into: torch.Tensor) -> None:
        crc32 = 0
        for start, end in _chunks(stored.size_bytes):
            chunk = _memory_of(into[start:end])
            crc32 = _read_chunk(descriptor, chunk, start, stored, crc32)
        _check_crc32(crc32, stored)

    def write(self, descriptor: int, offset_bytes: int, values: torch.Tensor) -> int:
        crc32 = 0
        for start, end in _chunks(len(values)):
            chunk = _memory_of(values[start:end])
            crc32 = zlib.crc32(chunk, crc32)
            _write_exactly(descriptor, chunk, offset_bytes + start)
        return crc32


class _PinnedStaging:
    """For cuda: two pinned buffers, one is filled while the other is copied to the device."""

    def __init__(self) -> None:
        self._buffers = [
            torch.empty(_CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)
        ]
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._turn = 0

    def read(self, descriptor: int, stored: StoredTensor, into: torch.Tensor) -> None:
        crc32 = 0
        for start, end in _chunks(stored.size_bytes):
            buffer, copied = self._buffers[self._turn], self._copied[self._turn]
            self._turn = 1 - self._turn
            copied.synchronize()
            staged = buffer[: end - start]
            crc32 = _read_chunk(descriptor, _memory_of(staged), start, stored, crc32)
            into[start:end].copy_(staged, non_blocking=True)
            copied.record()
        _check_crc32(crc32, stored)

    def write(self, descriptor: int, offset_bytes: int, values: torch.Tensor) -> int:
        crc32 = 0
        for start, end in _chunks(len(values)):
            staged = self._buffers[0][: end - start]
            staged.copy_(values[start:end])
            chunk = _memory_of(staged)
            crc32 = zlib.crc32(chunk, crc32)
            _write_exactly(descriptor, chunk, offset_bytes + start)
        return crc32


def _chunks(size_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size_bytes, _CHUNK_BYTES):
        yield start, min(start + _CHUNK_BYTES, size_bytes)


def _memory_of(values: torch.Tensor) -> memoryview:
    return values.numpy().data


def _read_chunk(
    descriptor: int, chunk: memoryview, start: int, stored: StoredTensor, crc32: int
) -> int:
    """Fill ``chunk`` from byte ``start`` of the tensor; the CRC-32 so far, if it is checked."""
    done = 0
    while done < len(chunk):
        count = os.preadv(descriptor, [chunk[done:]], stored.offset_bytes + start + done)
        if count == 0:
            raise BaseModelError(f"{stored.file} was cut off while {stored.name} was read")
        done += count
    return 0 if stored.crc32 is None else zlib.crc32(chunk, crc32)


def _write_exactly(descriptor: int, chunk: memoryview, offset_bytes: int) -> None:
    done = 0
    while done < len(chunk):
        done += os.pwrite(descriptor, chunk[done:], offset_bytes + done)


def _check_crc32(crc32: int, stored: StoredTensor) -> None:
    if stored.crc32 is not None and crc32 != stored.crc32:
        raise BaseModelError(f"{stored.file}: the bytes of {stored.name} have changed on the disk")
