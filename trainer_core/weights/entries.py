"""Headers of safetensors files, read and written without torch.

A file is the length of its header (8 bytes, little-endian), the header (JSON), and the tensors'
bytes without gaps. Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ITEM_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Name of a type → bytes of one element."""
LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library."""


_MAX_DIMENSIONS: Final = 16
_MAX_SIDE: Final = 2**63 - 1
_MAX_NAME_CHARACTERS: Final = 512
_QUOTED_CHARACTERS: Final = 60
_ALIGNMENT_BYTES: Final = 64


class BadHeaderError(Exception):
    """The file is cut off, or is no safetensors file; the message names it and the tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tensor of a file."""

    dtype: str
    """A key of ``ITEM_BYTES``."""
    shape: tuple[int, ...]
    offset_bytes: int
    """Where its bytes start in the file."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The tensors of a file by name, and what its writer noted."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_entries(
    file: Path, *, name: str | None = None, limit_bytes: int = MAX_HEADER_BYTES
) -> Header:
    """The header of a file.

    Args:
        file: is read.
        name: what messages call it; None: by its path.
        limit_bytes: of the header.

    Raises BadHeaderError where the file is missing, cut off, or no safetensors file, or where its
    header is longer.
    """
    called = name or str(file)
    try:
        with file.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            length_bytes = header_bytes(
                stream.read(LENGTH_BYTES), file_bytes, called, limit_bytes=limit_bytes
            )
            return parse_header(stream.read(length_bytes), file_bytes, called)
    except OSError as error:
        raise BadHeaderError(f"{called} cannot be read: {error.strerror}") from error


def header_bytes(
    first: bytes, file_bytes: int, name: str, *, limit_bytes: int = MAX_HEADER_BYTES
) -> int:
    """The length of the header that follows the first 8 bytes of a file.

    Args:
        first: these 8 bytes.
        file_bytes: the length of the file.
        name: of the file, for messages.
        limit_bytes: of the header.

    Raises BadHeaderError.
    """
    found = int.from_bytes(first, "little")
    if len(first) < LENGTH_BYTES or LENGTH_BYTES + found > file_bytes:
        raise BadHeaderError(f"{name} is cut off in its header, or no safetensors file")
    if found > limit_bytes:
        raise BadHeaderError(f"{name} has a header of {found} bytes, more than {limit_bytes}")
    return found


def parse_header(body: bytes, file_bytes: int, name: str) -> Header:
    """The header whose JSON is ``body``; the arguments and errors of ``header_bytes``."""
    data_start = LENGTH_BYTES + len(body)
    try:
        header = json.loads(body)
    except RecursionError as error:
        raise BadHeaderError(f"{name} is damaged: its header is nested too deep") from error
    except ValueError as error:
        raise BadHeaderError(
            f"{name} is damaged, or no safetensors file: its header is no JSON"
        ) from error
    if not isinstance(header, dict):
        raise BadHeaderError(f"{name} is no safetensors file")
    metadata = header.pop("__metadata__", None)
    noted = metadata if isinstance(metadata, dict) else {}
    entries = {key: entry_of(name, key, facts, data_start) for key, facts in header.items()}
    _check_without_gaps(name, entries, data_start, file_bytes)
    return Header(
        entries=entries,
        metadata={key: value for key, value in noted.items() if isinstance(value, str)},
    )


def new_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The first bytes of a new file, up to those of its first tensor, which are aligned to 64.

    Args:
        tensors: type (a key of ``ITEM_BYTES``) and shape of each, in the order of their bytes.
        metadata: what the writer notes; may be empty.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    body = json.dumps(header).encode()
    data_start = -(-(LENGTH_BYTES + len(body)) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    body = body.ljust(data_start - LENGTH_BYTES)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def quoted(text: str) -> str:
    """What a stranger wrote in a header, for a message: short, in ASCII, on one line."""
    return ascii(text[:_QUOTED_CHARACTERS])[1:-1][:_QUOTED_CHARACTERS]


def entry_of(name: str, key: str, facts: Any, data_start: int) -> Entry:
    """The tensor ``key`` of the file ``name`` by its entry in the header.

    Raises BadHeaderError. Its name goes to messages and the database, so it has to be text that can
    be shown. Sides are bounded, because the product of thousands of long numbers takes hours.
    """
    if len(key) > _MAX_NAME_CHARACTERS or not key.isprintable():
        raise BadHeaderError(
            f"{name} has a tensor whose name is longer than {_MAX_NAME_CHARACTERS} characters, or "
            f"cannot be shown: {quoted(key)}"
        )
    try:
        dtype = facts["dtype"]
        shape = tuple(int(side) for side in facts["shape"])
        start, end = (int(offset) for offset in facts["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadHeaderError(f"{name}: the header's entry of {key} is not valid") from error
    if not isinstance(dtype, str):
        raise BadHeaderError(f"{name}: the header's entry of {key} is not valid")
    if (item_bytes := ITEM_BYTES.get(dtype)) is None:
        raise BadHeaderError(f"{name}: {key} has the type {quoted(dtype)}, which cannot be read")
    if len(shape) > _MAX_DIMENSIONS or max(shape, default=0) > _MAX_SIDE:
        raise BadHeaderError(f"{name}: {key} has a shape that no tensor has")
    size_bytes = end - start
    if min(shape, default=0) < 0 or start < 0 or size_bytes != math.prod(shape) * item_bytes:
        raise BadHeaderError(f"{name}: the header's entry of {key} contradicts itself")
    return Entry(dtype=dtype, shape=shape, offset_bytes=data_start + start, size_bytes=size_bytes)


def _check_without_gaps(
    name: str, entries: Mapping[str, Entry], data_start: int, file_bytes: int
) -> None:
    end = data_start
    in_order = sorted(entries.items(), key=lambda item: (item[1].offset_bytes, item[1].size_bytes))
    for key, entry in in_order:
        if entry.offset_bytes != end:
            raise BadHeaderError(f"{name}: {key} does not follow the tensor before it")
        end += entry.size_bytes
        if end > file_bytes:
            raise BadHeaderError(f"{name} is cut off: {key} ends at byte {end} of {file_bytes}")
    if end != file_bytes:
        raise BadHeaderError(f"{name} has {file_bytes - end} bytes after its last tensor")
