"""Headers of safetensors files as torch reads and writes them; ``entries`` has the format."""

import json
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
    entry_of,
    read_entries,
)

_DTYPES: Final[Mapping[str, torch.dtype]] = {
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
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT_BYTES: Final = 64


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
    ends = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        ends[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    body = json.dumps(ends).encode()
    data_start = -(-(LENGTH_BYTES + len(body)) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    body = body.ljust(data_start - LENGTH_BYTES)
    places = [
        _stored(file, name, entry_of(str(file), name, facts, data_start))
        for name, facts in ends.items()
    ]
    return len(body).to_bytes(LENGTH_BYTES, "little") + body, places


def _stored(file: Path, name: str, entry: Entry) -> StoredTensor:
    return StoredTensor(
        name=name,
        file=file,
        dtype=_DTYPES[entry.dtype],
        shape=entry.shape,
        offset_bytes=entry.offset_bytes,
        size_bytes=entry.size_bytes,
    )
