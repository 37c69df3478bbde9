"""The tensors in the state files of a checkpoint, one file or several. Imports no torch.

A file holds tensors whole, or the part of them that its process held: elements that follow each
other in the flat tensor. A part is stored as a tensor of one dimension. Its place is in the file's
metadata, under ``slices``: JSON, name → ``[first element, shape of the whole tensor]``.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainer_core.weights.entries import (
    ITEM_BYTES,
    LENGTH_BYTES,
    BadHeaderError,
    Entry,
    Header,
    header_bytes,
    new_header,
    parse_header,
    quoted,
)

_SLICES: Final = "slices"
_MAX_DIMENSIONS: Final = 16


class NotAStateError(Exception):
    """A state file is damaged, or lacks what it should hold; the message names the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Of a part in its tensor."""

    start: int
    """First element, counted in the flat tensor."""
    shape: tuple[int, ...]
    """Of the whole tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPart:
    """Elements of a tensor in one file."""

    file: str
    start: int
    """First element, counted in the flat tensor."""
    count: int
    offset_bytes: int
    """Where they start in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRange:
    """Elements in one file, of those that are asked for."""

    file: str
    start: int
    """First element, counted from the first that is asked for."""
    count: int
    offset_bytes: int
    """Where they start in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateTensor:
    """A tensor of a checkpoint."""

    dtype: str
    """A key of ``ITEM_BYTES``."""
    shape: tuple[int, ...]
    parts: tuple[StoredPart, ...]
    """In order; they cover the tensor without a gap and do not overlap."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def ranges(self, start: int, count: int) -> Iterator[StoredRange]:
        """Where ``count`` elements from ``start`` on are stored, in order."""
        item_bytes, end = ITEM_BYTES[self.dtype], start + count
        for part in self.parts:
            first, last = max(start, part.start), min(end, part.start + part.count)
            if first < last:
                yield StoredRange(
                    file=part.file,
                    start=first - start,
                    count=last - first,
                    offset_bytes=part.offset_bytes + (first - part.start) * item_bytes,
                )


Read = Callable[[str, int, memoryview], None]
"""Fills memory with the bytes of a file from an offset on; raises NotAStateError, OSError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateFiles:
    """The tensors of a checkpoint by name; their bytes are read when they are asked for."""

    tensors: Mapping[str, StateTensor]
    read: Read

    def read_elements(self, name: str, start: int, into: memoryview) -> None:
        """Fill ``into`` with the elements of a tensor from ``start`` on; only these are read.

        Args:
            name: of the tensor; KeyError where there is none.
            start: first element, counted in the flat tensor.
            into: writable bytes, as many as whole elements.

        Raises NotAStateError where a file is cut off, and OSError.
        """
        tensor = self.tensors[name]
        item_bytes = ITEM_BYTES[tensor.dtype]
        for each in tensor.ranges(start, len(into) // item_bytes):
            to = into[each.start * item_bytes : (each.start + each.count) * item_bytes]
            self.read(each.file, each.offset_bytes, to)

    def read_whole(self, name: str) -> bytearray:
        """The bytes of a whole tensor; raises as ``read_elements``."""
        tensor = self.tensors[name]
        body = bytearray(tensor.count * ITEM_BYTES[tensor.dtype])
        self.read_elements(name, 0, memoryview(body))
        return body


def state_of_files(files: Mapping[str, BinaryIO]) -> StateFiles:
    """The state in opened files, by their names; raises NotAStateError."""
    headers = {name: _header_of(file, name) for name, file in files.items()}

    def read(name: str, offset_bytes: int, into: memoryview) -> None:
        read_at(files[name].fileno(), name, offset_bytes, into)

    return StateFiles(tensors=tensors_in(headers), read=read)


def state_in(folder: Path, names: Sequence[str]) -> StateFiles:
    """The state in the files of a folder; raises NotAStateError and OSError."""
    headers = {}
    for name in names:
        with (folder / name).open("rb") as file:
            headers[name] = _header_of(file, name)

    def read(name: str, offset_bytes: int, into: memoryview) -> None:
        with (folder / name).open("rb") as file:
            read_at(file.fileno(), name, offset_bytes, into)

    return StateFiles(tensors=tensors_in(headers), read=read)


def state_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], parts: Mapping[str, Place]
) -> bytes:
    """The first bytes of a state file.

    Args:
        tensors: as for ``new_header``.
        parts: the places of those that are parts.
    """
    if not parts:
        return new_header(tensors, {})
    places = {name: [part.start, list(part.shape)] for name, part in parts.items()}
    return new_header(tensors, {_SLICES: json.dumps(places, separators=(",", ":"))})


def tensors_in(headers: Mapping[str, Header]) -> dict[str, StateTensor]:
    """The tensors that files hold together, by the files' names.

    Raises NotAStateError, which names the file, where files contradict each other or themselves,
    and where a part is missing or stored twice.
    """
    found: dict[str, list[tuple[StoredPart, str, tuple[int, ...]]]] = {}
    for file, header in headers.items():
        places = _places_of(file, header)
        for name, entry in header.entries.items():
            part = places.get(name, Place(start=0, shape=entry.shape))
            stored = StoredPart(
                file=file,
                start=part.start,
                count=math.prod(entry.shape),
                offset_bytes=entry.offset_bytes,
            )
            found.setdefault(name, []).append((stored, entry.dtype, part.shape))
    return {name: _joined(name, parts) for name, parts in found.items()}


def _places_of(file: str, header: Header) -> dict[str, Place]:
    """The places of the parts in a file."""
    try:
        noted = json.loads(header.metadata.get(_SLICES, "{}"))
        places = {
            name: Place(start=_number(start), shape=tuple(map(_number, shape)))
            for name, (start, shape) in noted.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise NotAStateError(f"{file}: the places of its parts cannot be read") from error
    for name, part in places.items():
        entry = header.entries.get(name)
        if entry is None or not _fits(entry, part):
            raise NotAStateError(f"{file}: the place of {quoted(name)} contradicts its tensor")
    return places


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _fits(entry: Entry, part: Place) -> bool:
    return (
        len(part.shape) <= _MAX_DIMENSIONS
        and len(entry.shape) == 1
        and part.start + entry.shape[0] <= math.prod(part.shape)
    )


def _joined(name: str, stored: list[tuple[StoredPart, str, tuple[int, ...]]]) -> StateTensor:
    """The tensor of these parts; raises NotAStateError where they do not make one."""
    first, dtype, shape = stored[0]
    for part, other_dtype, other_shape in stored[1:]:
        if (other_dtype, other_shape) != (dtype, shape):
            raise NotAStateError(
                f"{part.file}: {quoted(name)} is {other_dtype} {list(other_shape)}, and {dtype} "
                f"{list(shape)} in {first.file}"
            )
    parts = sorted((part for part, _, _ in stored), key=lambda part: part.start)
    end, before = 0, None
    for part in parts:
        if part.start < end:
            raise NotAStateError(f"{part.file}: {quoted(name)} is in {before} already, in part")
        if part.start > end:
            raise _gap(name, end, part.start, parts)
        end, before = part.start + part.count, part.file
    if end != math.prod(shape):
        raise _gap(name, end, math.prod(shape), parts)
    return StateTensor(dtype=dtype, shape=shape, parts=tuple(parts))


def _gap(name: str, start: int, end: int, parts: Sequence[StoredPart]) -> NotAStateError:
    files = ", ".join(dict.fromkeys(part.file for part in parts))
    return NotAStateError(
        f"the elements {start} to {end} of {quoted(name)} are in none of its files ({files})"
    )


def _header_of(file: BinaryIO, name: str) -> Header:
    file.seek(0)
    file_bytes = os.fstat(file.fileno()).st_size
    try:
        length_bytes = header_bytes(file.read(LENGTH_BYTES), file_bytes, name)
        return parse_header(file.read(length_bytes), file_bytes, name)
    except BadHeaderError as error:
        raise NotAStateError(str(error)) from error


def read_at(descriptor: int, name: str, offset_bytes: int, into: memoryview) -> None:
    """Fill ``into`` from an offset of an opened file; ``name``: what the error calls it."""
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], offset_bytes + done)
        if count == 0:
            raise NotAStateError(f"{name} is cut off")
        done += count
