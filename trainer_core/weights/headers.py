"""Headers of safetensors files as torch reads and writes them; ``entries`` has the format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from trainer_core.errors import BaseModelError
from trainer_core.weights.entries import (
    LENGTH_BYTES,
    BadHeaderError,
    Entry,
    new_header,
    parse_header,
    read_entries,
)

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor in a file."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset_bytes: int
    """Where its bytes start in the file."""
    size_bytes: int
    crc32: int | None = None
    """Of its bytes, checked when they are read; None: not known."""


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises BaseModelError, which names the file and the tensor, where the file is missing or cut
    off, or is no safetensors file.
    """
    try:
        header = read_entries(file)
    except BadHeaderError as error:
        raise BaseModelError(str(error)) from error
    return {name: _stored(file, name, entry) for name, entry in header.entries.items()}


def header_of(tensors: Mapping[str, torch.Tensor], file: Path) -> tuple[bytes, list[StoredTensor]]:
    """The first bytes of a new file with these tensors, and where their own bytes belong."""
    facts = {
        name: (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    header = new_header(facts, {})
    entries = parse_header(
        header[LENGTH_BYTES:],
        len(header) + sum(each.nbytes for each in tensors.values()),
        str(file),
    ).entries
    return header, [_stored(file, name, entry) for name, entry in entries.items()]


def _stored(file: Path, name: str, entry: Entry) -> StoredTensor:
    return StoredTensor(
        name=name,
        file=file,
        dtype=DTYPES[entry.dtype],
        shape=entry.shape,
        offset_bytes=entry.offset_bytes,
        size_bytes=entry.size_bytes,
    )
