"""Small cache entries that stay in memory once they are read, so that later epochs read no files.

Finding, opening and parsing a file takes longer than using what is in it, if that is a picture of
128 px. Large entries are not kept: reading them is a small part of a step on them, and the system's
page cache has them where there is room.
"""

import threading
from collections.abc import Mapping
from typing import Final

import torch

MOST_BYTES: Final = 1 << 20
"""Of an entry that is kept: the latents of a picture of 512 px have half of it, and a caption of
HiDream-I1 34 times as much."""
_OBJECTS_BYTES: Final = 4096
"""What Python and torch need beside the bytes of an entry; measured: 2.4 kB."""


class KeptEntries:
    """Tensors by the digest of their entry, which nobody changes. Any thread may use it.

    None gives way to another: an epoch reads all of them equally often.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._tensors: dict[str, Mapping[str, torch.Tensor]] = {}
        self._adding = threading.Lock()

    def find(self, digest: str) -> Mapping[str, torch.Tensor] | None:
        """The tensors of an entry; None where it is not kept."""
        return self._tensors.get(digest)

    def keep(self, digest: str, tensors: Mapping[str, torch.Tensor], size_bytes: int) -> None:
        """Keep an entry of this size if it is small, and there is room for it."""
        if size_bytes > MOST_BYTES:
            return
        with self._adding:
            used_bytes = self._used_bytes + size_bytes + _OBJECTS_BYTES
            if used_bytes <= self._limit_bytes and digest not in self._tensors:
                self._tensors[digest] = tensors
                self._used_bytes = used_bytes
