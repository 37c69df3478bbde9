"""Write a state file: each tensor's bytes go from where it is to the disk, in chunks."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch

from trainer_core.checkpoint.layout import FileFacts
from trainer_core.checkpoint.state_files import Place, state_header
from trainer_core.faultpoints import fault_point
from trainer_core.weights.headers import DTYPE_NAMES

_CHUNK_BYTES: Final = 32 << 20


def write_state(
    path: Path, tensors: Mapping[str, torch.Tensor], parts: Mapping[str, Place]
) -> FileFacts:
    """Write a new file; when this returns, it survives a power failure.

    Beside the tensors, memory holds one chunk. The digest is computed while a chunk is written.

    Args:
        path: of the file.
        tensors: by name, on any device.
        parts: the places of those that are parts of a tensor; these have one dimension.

    Raises OSError.
    """
    # Types of larger items first, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    layout = {
        name: (DTYPE_NAMES[tensors[name].dtype], tuple(tensors[name].shape)) for name in names
    }
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:

        def write(chunk: bytes | memoryview) -> None:
            nonlocal size_bytes
            hashed = pool.submit(digest.update, chunk)
            done = 0
            while done < len(chunk):
                done += file.write(chunk[done:])
            hashed.result()
            size_bytes += len(chunk)

        write(state_header(layout, parts))
        fault_point("checkpoint.in_state")
        staging = _Staging()
        for name in names:
            for chunk in staging.chunks(tensors[name]):
                write(chunk)
        os.fsync(file.fileno())
    return FileFacts(size_bytes=size_bytes, sha256=digest.hexdigest())


class _Staging:
    """Gives the bytes of tensors in chunks; those on a device pass through pinned memory."""

    def __init__(self) -> None:
        self._pinned: torch.Tensor | None = None

    def chunks(self, tensor: torch.Tensor) -> Iterator[memoryview]:
        """Each is valid until the next one is asked for."""
        values = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for start in range(0, len(values), _CHUNK_BYTES):
            chunk = values[start : start + _CHUNK_BYTES]
            yield self._on_host(chunk).numpy().data

    def _on_host(self, chunk: torch.Tensor) -> torch.Tensor:
        if chunk.device.type == "cpu":
            return chunk
        if self._pinned is None:
            self._pinned = torch.empty(_CHUNK_BYTES, dtype=torch.uint8, pin_memory=True)
        staged = self._pinned[: len(chunk)]
        staged.copy_(chunk)
        return staged
