"""Copies batches to the device beside the step that it works on."""

from typing import NamedTuple

import torch

from trainer_core.engine.batch import Batch


class Arriving(NamedTuple):
    """A batch on its way to the device."""

    batch: Batch
    copied: torch.cuda.Event | None
    """Recorded after its copies; None: it is there."""


class Transfer:
    """Copies from pinned memory on a stream of its own; on a CPU there is nothing to copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _stream_of(device)

    def start(self, batch: Batch) -> Arriving:
        """Start the copies of a batch that is on the CPU. Any thread may call it."""
        if self._stream is None:
            return Arriving(batch.with_whole_text(), None)
        pinned = batch.map(torch.Tensor.pin_memory)  # a copy of what is not pinned yet
        with torch.cuda.stream(self._stream):
            copy = pinned.map(lambda tensor: tensor.to(self._device, non_blocking=True))
            copy = copy.with_whole_text()
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return Arriving(copy, copied)

    def finish(self, arriving: Arriving) -> Batch:
        """The batch, for use on the current stream, which waits for the copies."""
        if arriving.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(arriving.copied)
            for tensor in arriving.batch.tensors():
                # Its memory is free for other copies only when this stream has read it.
                tensor.record_stream(stream)
        return arriving.batch


def _stream_of(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
