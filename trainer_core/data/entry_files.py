"""The file of a cache entry: ``<digest>.safetensors``, whose header says what its bytes were.

An entry is named by what it is made from. Its own bytes can be damaged later, by a disk or a copy;
``sha256`` in the header is that of all tensors' bytes. ``mtime_s`` is the file's time of
modification as it was written: as long as the file has it, the bytes are trusted until they are
read. Imports no torch.
"""

import contextlib
import hashlib
import mmap
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.faultpoints import fault_point
from trainer_core.weights.entries import (
    LENGTH_BYTES,
    BadHeaderError,
    Header,
    header_bytes,
    new_header,
    parse_header,
    read_entries,
)
from trainer_core.whole_file import draft_of

_SUFFIX: Final = ".safetensors"
_SHA256: Final = "sha256"
_MTIME: Final = "mtime_s"
_NS: Final = 1_000_000_000
_MTIME_DIGITS: Final = 11
_HUGE_PAGE_BYTES: Final = 2 << 20

TensorFacts = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of each tensor → its type as in ``weights.entries`` and its shape, in the order of their
bytes."""


def entry_name(digest: str) -> str:
    """The file name of an entry."""
    return f"{digest}{_SUFFIX}"


def wanted_folder(folder: Path) -> Path:
    """Where a training process asks for missing entries: an empty file for each, by its digest."""
    return folder / "wanted"


def write_entry_file(
    path: Path,
    tensors: TensorFacts,
    sha256: str,
    data: Iterable[bytes | memoryview],
    *,
    durable: bool,
) -> None:
    """Write an entry; the file appears complete or not at all.

    Args:
        path: in an existing folder.
        tensors: of the entry.
        sha256: of ``data``; not compared here.
        data: the tensors' bytes, in pieces of any size.
        durable: whether it has to survive a loss of power.

    Raises OSError, and what ``data`` raises.
    """
    now_s = int(time.time())
    with draft_of(path) as draft:
        fault_point("encode.before_write")
        with draft.open("wb") as file:
            file.write(new_header(tensors, {_SHA256: sha256, _MTIME: str(now_s)}))
            for piece in data:
                file.write(piece)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.utime(draft, (now_s, now_s))
        fault_point("encode.before_rename")
    fault_point("encode.after_rename")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadEntry:
    """All of an entry's file."""

    header: Header
    buffer: bytearray | mmap.mmap
    """The file's bytes; ``header`` says where those of each tensor are."""
    identity: tuple[int, int]
    """The inode and the time of modification in ns, which differ for a file that replaces it."""

    def damage(self) -> str | None:
        """What is wrong with the tensors' bytes; None where they are as they were written."""
        found = hashlib.sha256(memoryview(self.buffer)[_data_start(self.buffer) :]).hexdigest()
        if found == self.header.metadata.get(_SHA256):
            return None
        return "its SHA-256 is not the one it was written with"


def read_entry_file(path: Path) -> ReadEntry:
    """Read an entry's file. Raises OSError, and BadHeaderError where it is cut off or damaged."""
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        buffer = _new_buffer(facts.st_size)
        file.readinto(buffer)
    view = memoryview(buffer)
    length_bytes = header_bytes(bytes(view[:LENGTH_BYTES]), len(buffer), path.name)
    body = bytes(view[LENGTH_BYTES : LENGTH_BYTES + length_bytes])
    return ReadEntry(
        header=parse_header(body, len(buffer), path.name),
        buffer=buffer,
        identity=(facts.st_ino, facts.st_mtime_ns),
    )


def damage_of(path: Path) -> str | None:
    """What is wrong with an entry's file, all of which is read; None where it is whole.

    Raises OSError.
    """
    try:
        return read_entry_file(path).damage()
    except BadHeaderError as error:
        return str(error)


def is_unchanged(path: Path) -> bool:
    """Whether an entry's file has the size and the time that it was written with.

    Raises OSError.
    """
    mtime_ns = path.stat().st_mtime_ns
    try:
        written_s = _written_s(read_entries(path))
    except BadHeaderError:
        return False
    return written_s is not None and mtime_ns == written_s * _NS


def trust(path: Path) -> None:
    """Give a file that was read and is whole the time that it was written with. Raises OSError."""
    written_s = _written_s(read_entries(path))
    if written_s is not None:  # not covered by the digest; without it the file is read each time
        os.utime(path, (written_s, written_s))


def _written_s(header: Header) -> int | None:
    """When the file was written; None where the header does not say so."""
    text = header.metadata.get(_MTIME, "")
    return int(text) if text.isdecimal() and len(text) <= _MTIME_DIGITS else None


def _new_buffer(size_bytes: int) -> bytearray | mmap.mmap:
    """Memory for a file, of its own.

    In pages of 4 kB the first use of new memory costs three times as much as reading a cached file
    of 33 MB into it; in huge pages it costs a tenth of that.
    """
    if size_bytes < _HUGE_PAGE_BYTES:
        return bytearray(size_bytes)
    buffer = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # this kernel has none
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _data_start(buffer: bytearray | mmap.mmap) -> int:
    return LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "little")
