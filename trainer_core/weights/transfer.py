"""Reads many tensors from files to a device, and writes them back, with several threads.

One thread copies out of the page cache at a few GB/s, or waits for the disk; several together keep
up with the link to the device, or keep the disk's queue full.
"""

import os
import threading
from _thread import start_new_thread
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import torch

from trainer_core.weights.headers import StoredTensor
from trainer_core.weights.staging import Staging, staging_for

Item = TypeVar("Item")

_THREADS: Final = min(8, len(os.sched_getaffinity(0)))
_READ_AHEAD: Final = 2 * _THREADS
"""How many tensors ahead of the threads the kernel is asked to read from the disk."""
_LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """One tensor to read."""

    stored: StoredTensor
    into: torch.Tensor | None = None
    """Contiguous, of the stored type and shape, on the device; None: memory that is used again."""
    then: Callable[[torch.Tensor], object] = lambda _: None
    """Called with the value, which has to be used up when it returns. Several threads call it at
    once, each for another tensor, without gradients and on the stream of the caller."""


def read_tensors(reads: Sequence[Read], device: torch.device) -> None:
    """Read tensors in the order of the files. On return everything is complete on the device.

    Raises:
        BaseModelError: a file is cut off, or a checksum is another one.
        OSError: a file cannot be read.
    """
    in_order = sorted(reads, key=lambda read: (read.stored.file, read.stored.offset_bytes))
    with _opened({read.stored.file for read in in_order}, os.O_RDONLY) as descriptors:

        def work(memory: "_Memory", number: int) -> None:
            if number + _READ_AHEAD < len(in_order):
                ahead = in_order[number + _READ_AHEAD].stored
                os.posix_fadvise(
                    descriptors[ahead.file],
                    ahead.offset_bytes,
                    ahead.size_bytes,
                    os.POSIX_FADV_WILLNEED,
                )
            read, stored = in_order[number], in_order[number].stored
            value = memory.shaped_as(stored) if read.into is None else read.into
            memory.staging.read(descriptors[stored.file], stored, _bytes_of(value))
            read.then(value)

        _each_in_threads(range(len(in_order)), device, work)


def write_tensors(
    file: Path, places: Sequence[StoredTensor], tensors: Mapping[str, torch.Tensor]
) -> dict[str, int]:
    """Write contiguous tensors to their places in an existing file; name → CRC-32.

    They are on the CPU, or on one CUDA device, or some there and some here. Raises OSError.
    """
    crc32s: dict[str, int] = {}
    devices = {tensor.device for tensor in tensors.values()} - {torch.device("cpu")}
    device = devices.pop() if devices else torch.device("cpu")
    with _opened({file}, os.O_WRONLY) as descriptors:

        def work(memory: "_Memory", place: StoredTensor) -> None:
            values = _bytes_of(tensors[place.name])
            crc32s[place.name] = memory.staging.write(descriptors[file], place.offset_bytes, values)

        _each_in_threads(places, device, work)
    return crc32s


class _Memory:
    """What one thread reuses for every tensor."""

    def __init__(self, device: torch.device) -> None:
        self.staging: Staging = staging_for(device)
        self._device = device
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    def shaped_as(self, stored: StoredTensor) -> torch.Tensor:
        """Memory on the device for one stored tensor; the next call gives it away again."""
        if len(self._bytes) < stored.size_bytes:
            del self._bytes
            self._bytes = torch.empty(stored.size_bytes, dtype=torch.uint8, device=self._device)
        return self._bytes[: stored.size_bytes].view(stored.dtype).view(stored.shape)


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _each_in_threads(
    items: Sequence[Item], device: torch.device, work: Callable[[_Memory, Item], None]
) -> None:
    """Call ``work`` with each item; the first error ends all threads and is raised."""
    left, lock = iter(items), threading.Lock()
    is_over = False
    on_cuda = device.type == "cuda"
    stream = torch.cuda.current_stream(device) if on_cuda else None
    threads: list[int] = []
    errors: list[BaseException | None] = []
    """One for each thread that has ended; None where it ended well."""
    ended: SimpleQueue[None] = SimpleQueue()

    def take() -> Iterator[Item]:
        while not is_over:
            with lock:
                try:
                    item = next(left)
                except StopIteration:
                    return
            yield item

    def work_all() -> None:
        # Grad mode, device and stream belong to a thread.
        on_stream = nullcontext() if stream is None else torch.cuda.stream(stream)
        with torch.no_grad(), on_stream:
            memory = _Memory(device)
            for item in take():
                work(memory, item)

    def run() -> None:
        nonlocal is_over
        try:
            # Its tensors are gone when it returns. A process that ended while a thread, already
            # counted as ended, still freed them would be aborted by PyTorch.
            work_all()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            is_over = True
            errors.append(error)
        else:
            errors.append(None)
        ended.put(None)

    # An interrupt of this thread ends the others too, also while it starts them. A pool, an event
    # or a Thread will not do: their locks are taken by Python code, in which an interrupt may leave
    # one locked, and then the other thread waits for ever. Those of a SimpleQueue are C.
    def wait() -> None:
        while len(errors) < len(threads):
            # An interrupt just before it waits is seen at its end only, and one just after it may
            # take what was got.
            with suppress(Empty):
                ended.get(timeout=_LOOK_EVERY_S)

    try:
        count = min(_THREADS, len(items))
        # One call in C: no interrupt comes between the start of a thread and its place in the list.
        threads.extend(map(start_new_thread, [run] * count, [()] * count))
        wait()
    finally:
        is_over = True
        wait()
    for error in errors:
        if error is not None:
            raise error
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # the memory that the threads reused


@contextmanager
def _opened(files: set[Path], flags: int) -> Iterator[dict[Path, int]]:
    with ExitStack() as stack:
        descriptors = {}
        for file in sorted(files):
            descriptors[file] = os.open(file, flags)
            stack.callback(os.close, descriptors[file])
        yield descriptors
