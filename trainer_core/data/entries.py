"""Cache entries as tensors, in a folder of files.

A latents entry has `mean` and `std` [1, C, h, w] (fp32, before shift and scale), a text entry `t5`
[1, T, D], `llama` [1, L, T, D] and `pooled` [1, P], and in 8 bits `t5_scale` [1, T] and
`llama_scale` [1, L, T]. A masks entry has `mask` [1, 1, h, w] (fp32, 0 to 1, over the cells of its
latents).
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from trainer_core.data.entry_files import (
    ReadEntry,
    entry_name,
    read_entry_file,
    wanted_folder,
    write_entry_file,
)
from trainer_core.data.index import EntryKind
from trainer_core.data.kept_entries import KeptEntries
from trainer_core.errors import ShardCorruptError, ShardMissingError
from trainer_core.weights.entries import BadHeaderError
from trainer_core.weights.headers import DTYPE_NAMES, DTYPES

_TEXT: Final = {"t5": 3, "llama": 4, "pooled": 2}
_TENSORS: Final[Mapping[EntryKind, tuple[Mapping[str, int], ...]]] = {
    "latents": ({"mean": 4, "std": 4},),
    "text": (_TEXT, {**_TEXT, "t5_scale": 2, "llama_scale": 3}),
    "masks": ({"mask": 4},),
}
"""Kind of entry → the tensors it may have, and their numbers of dimensions."""

_WAIT_POLL_S: Final = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedEntry:
    """The tensors of an entry as bytes."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape of each, in the order of their bytes."""
    parts: tuple[memoryview, ...]
    """The bytes of each."""
    sha256: str
    """Of all parts."""

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def encoded(kind: EntryKind, tensors: Mapping[str, torch.Tensor]) -> EncodedEntry:
    """An entry from its tensors; raises ValueError if they are not those of ``kind``."""
    in_order = {name: tensors[name].contiguous() for name in sorted(tensors)}
    _check(kind, {name: tuple(tensor.shape) for name, tensor in in_order.items()})
    parts = tuple(memoryview(_bytes_of(tensor)) for tensor in in_order.values())
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return EncodedEntry(
        tensors={n: (DTYPE_NAMES[t.dtype], tuple(t.shape)) for n, t in in_order.items()},
        parts=parts,
        sha256=sha256.hexdigest(),
    )


def _bytes_of(tensor: torch.Tensor) -> Any:
    """An array that shares the tensor's memory."""
    return tensor.view(torch.uint8).reshape(-1).numpy()


def write_entry(path: Path, entry: EncodedEntry) -> None:
    """Write an entry that survives a loss of power. Raises OSError."""
    write_entry_file(path, entry.tensors, entry.sha256, entry.parts, durable=True)


class EntryFolder:
    """Entries in a local folder that another process fills.

    Writers rename a finished file to its final name, so an existing file is complete. The bytes of
    a file are compared with its digest when this process reads it for the first time, unless the
    writer has just done so. No file stays open, so a deleted one takes no space. It serves one
    thread.

    Small entries stay in memory. They are not looked for in the folder any more, because other
    bytes would have another digest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        are_checked: bool = False,
        wait_s: float = 600.0,
        while_waiting: Callable[[str], None] | None = None,
        kept_bytes: int = 0,
    ) -> None:
        """Args:
        are_checked: whether the writer compares the bytes of each entry with its digest.
        wait_s: the longest wait for one entry.
        while_waiting: called about 50 times a second with the digest of the missing entry; it may
            raise to end the wait, for example when a stop is requested.
        kept_bytes: most bytes of small entries that stay in memory.
        """
        self._folder = folder
        self._are_checked = are_checked
        self._wait_s = wait_s
        self._while_waiting = while_waiting
        self._waits_s: list[float] = []
        self._kept = KeptEntries(kept_bytes)
        self._verified: dict[str, tuple[int, int]] = {}
        """Digest → ``identity`` of the file whose bytes were compared last."""

    @property
    def waited_s(self) -> float:
        """Time in which entries were missing."""
        return sum(self._waits_s)

    def beside(self, while_waiting: Callable[[str], None]) -> "EntryFolder":
        """The same folder for another thread; its waits count here too, and it keeps the same."""
        other = EntryFolder(
            self._folder,
            are_checked=self._are_checked,
            wait_s=self._wait_s,
            while_waiting=while_waiting,
        )
        other._waits_s = self._waits_s
        other._kept = self._kept
        other._verified = self._verified
        return other

    def read(self, digest: str, kind: EntryKind) -> Mapping[str, torch.Tensor]:
        """The tensors of one entry, each with a leading dimension of 1; they are not to be changed.

        Raises:
            ShardMissingError: the file did not appear in time.
            ShardCorruptError: the file is damaged, and is deleted now; or it is not of this kind.
        """
        kept = self._kept.find(digest)
        if kept is not None:
            return kept
        path = self._folder / entry_name(digest)
        found = self._read_file(path, digest)
        tensors = _tensors(found, kind, path.name)
        self._kept.keep(digest, tensors, len(found.buffer))
        return tensors

    def _read_file(self, path: Path, digest: str) -> ReadEntry:
        has_waited = False
        while True:
            try:
                found = read_entry_file(path)
            except FileNotFoundError:  # not there yet, or deleted to make room
                self._await(path, digest)
                has_waited = True
                continue
            except BadHeaderError as error:
                raise _damaged(path, str(error)) from error
            break
        if has_waited:  # from now on it may be deleted to make room for another
            (wanted_folder(self._folder) / digest).unlink(missing_ok=True)
        if not self._are_checked and self._verified.get(digest) != found.identity:
            if (why := found.damage()) is not None:
                raise _damaged(path, why)
            self._verified[digest] = found.identity
        return found

    def _await(self, path: Path, digest: str) -> None:
        """Wait until the file exists."""
        started_s = time.monotonic()
        deadline = started_s + self._wait_s
        while not path.is_file():
            if time.monotonic() >= deadline:
                raise ShardMissingError(
                    f"cache entry {digest} did not arrive in {self._wait_s:g} s"
                )
            if self._while_waiting is not None:
                self._while_waiting(digest)
            time.sleep(_WAIT_POLL_S)
        self._waits_s.append(time.monotonic() - started_s)


def _damaged(path: Path, why: str) -> ShardCorruptError:
    path.unlink(missing_ok=True)  # so that it is made, or fetched, anew
    return ShardCorruptError(
        f"cache entry {path.name} is damaged: {why}; it is deleted now, and made anew at the next "
        "start"
    )


def _tensors(found: ReadEntry, kind: EntryKind, name: str) -> dict[str, torch.Tensor]:
    entries = found.header.entries
    try:
        _check(kind, {each: entry.shape for each, entry in entries.items()})
    except ValueError as error:
        raise ShardCorruptError(f"cache entry {name}: {error}") from error
    tensors = {}
    for each, entry in entries.items():
        dtype = DTYPES[entry.dtype]
        flat = torch.frombuffer(
            found.buffer,
            dtype=dtype,
            count=entry.size_bytes // dtype.itemsize,
            offset=entry.offset_bytes,
        )
        tensors[each] = flat.reshape(entry.shape)
    return tensors


def _check(kind: EntryKind, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if the shapes are not those of one entry of the kind."""
    expected = next((each for each in _TENSORS[kind] if each.keys() == shapes.keys()), None)
    if expected is None:
        raise ValueError(f"a {kind} entry has {sorted(_TENSORS[kind][0])}, not {sorted(shapes)}")
    for name, shape in shapes.items():
        if len(shape) != expected[name] or shape[0] != 1:
            raise ValueError(f"{name} has shape {shape}, not {expected[name]} dimensions from 1")
