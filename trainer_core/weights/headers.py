"""Headers of safetensors files: which tensors a file holds, and where.

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

import torch

from trainer_core.errors import BaseModelError

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
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library."""
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
        with file.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            header_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            data_start = _LENGTH_BYTES + header_bytes
            if header_bytes > _MAX_HEADER_BYTES or data_start > file_bytes:
                raise BaseModelError(f"{file} is cut off in its header, or no safetensors file")
            header = json.loads(stream.read(header_bytes))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise BaseModelError(f"{file} is no safetensors file")
    header.pop("__metadata__", None)
    tensors = {name: _stored(file, name, facts, data_start) for name, facts in header.items()}
    _check_without_gaps(file, tensors, data_start, file_bytes)
    return tensors


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
    data_start = -(-(_LENGTH_BYTES + len(body)) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    body = body.ljust(data_start - _LENGTH_BYTES)
    places = [_stored(file, name, facts, data_start) for name, facts in ends.items()]
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body, places


def _stored(file: Path, name: str, facts: Any, data_start: int) -> StoredTensor:
    try:
        stored_type = facts["dtype"]
        shape = tuple(int(side) for side in facts["shape"])
        start, end = (int(offset) for offset in facts["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise BaseModelError(f"{file}: the header's entry of {name} is not valid") from error
    if (dtype := _DTYPES.get(stored_type)) is None:
        raise BaseModelError(f"{file}: {name} has the type {stored_type}, which cannot be read")
    size_bytes = end - start
    if min(shape, default=0) < 0 or start < 0 or size_bytes != math.prod(shape) * dtype.itemsize:
        raise BaseModelError(f"{file}: the header's entry of {name} contradicts itself")
    return StoredTensor(
        name=name,
        file=file,
        dtype=dtype,
        shape=shape,
        offset_bytes=data_start + start,
        size_bytes=size_bytes,
    )


def _check_without_gaps(
    file: Path, tensors: Mapping[str, StoredTensor], data_start: int, file_bytes: int
) -> None:
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda each: (each.offset_bytes, each.size_bytes)):
        if tensor.offset_bytes != end:
            raise BaseModelError(f"{file}: {tensor.name} does not follow the tensor before it")
        end += tensor.size_bytes
        if end > file_bytes:
            raise BaseModelError(
                f"{file} is cut off: {tensor.name} ends at byte {end} of {file_bytes}"
            )
    if end != file_bytes:
        raise BaseModelError(f"{file} has {file_bytes - end} bytes after its last tensor")
