"""One pass over a safetensors file: its SHA-256, and whether its numbers are finite.

Imports no torch, and no numpy: it runs in the command line and in the service's indexer. About
1 GB/s.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainer_core.weights.entries import BadHeaderError, Header

_CHUNK_BYTES: Final = 1 << 20


def _flags(is_set: Callable[[int], bool]) -> bytes:
    """A table for ``bytes.translate``: 1 where the byte fulfils the condition."""
    return bytes(is_set(byte) for byte in range(256))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exponent:
    """Where a little-endian float has its exponent, whose bits are all 1 in NaN and infinity."""

    item_bytes: int
    high: bytes
    """Flags of the last byte."""
    low: bytes | None
    """Flags of the byte before it; None: the last byte has the whole exponent."""


_EXPONENTS: Final[Mapping[str, _Exponent]] = {
    "F64": _Exponent(
        item_bytes=8, high=_flags(lambda b: b & 0x7F == 0x7F), low=_flags(lambda b: b >= 0xF0)
    ),
    "F32": _Exponent(
        item_bytes=4, high=_flags(lambda b: b & 0x7F == 0x7F), low=_flags(lambda b: b >= 0x80)
    ),
    "BF16": _Exponent(
        item_bytes=2, high=_flags(lambda b: b & 0x7F == 0x7F), low=_flags(lambda b: b >= 0x80)
    ),
    "F16": _Exponent(item_bytes=2, high=_flags(lambda b: b & 0x7C == 0x7C), low=None),
}


def checked_sha256(file: Path, header: Header, *, called: str | None = None) -> str:
    """SHA-256 of a whole file; integers and 8-bit floats are not looked at.

    Args:
        file: is read.
        header: of the file.
        called: what messages call it; None: by its path.

    Raises BadHeaderError where a number is NaN or infinite, or the file has changed since its
    header was read.
    """
    shown = called or str(file)
    digest = hashlib.sha256()
    entries = sorted(header.entries.items(), key=lambda item: item[1].offset_bytes)
    try:
        with file.open("rb") as stream:
            start = entries[0][1].offset_bytes if entries else file.stat().st_size
            digest.update(_read(stream, start))
            for name, entry in entries:
                left = entry.size_bytes
                while left:
                    chunk = _read(stream, min(left, _CHUNK_BYTES))
                    left -= len(chunk)
                    digest.update(chunk)
                    if _has_non_finite(chunk, _EXPONENTS.get(entry.dtype)):
                        raise BadHeaderError(
                            f"{shown}: {name} holds values that are not finite (NaN or infinity)"
                        )
    except OSError as error:
        raise BadHeaderError(f"{shown} cannot be read: {error.strerror}") from error
    except EOFError as error:
        raise BadHeaderError(f"{shown} cannot be read: {error}") from error
    return digest.hexdigest()


def _read(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) != count:
        raise EOFError("it was cut off while it was read")
    return found


def _has_non_finite(chunk: bytes, exponent: _Exponent | None) -> bool:
    """Compares a megabyte at a time: the flags of all numbers are one large integer."""
    if exponent is None:
        return False
    item = exponent.item_bytes
    high = chunk[item - 1 :: item].translate(exponent.high)
    if 1 not in high or exponent.low is None:
        return 1 in high
    low = chunk[item - 2 :: item].translate(exponent.low)
    return int.from_bytes(high, "little") & int.from_bytes(low, "little") != 0
