"""Damages files in the ways that disks, copies and people do."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final


def truncate(file: Path) -> None:
    """Cut it in half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Change one bit of its middle byte; size and place stay."""
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)


def flip_last(file: Path) -> None:
    """As ``flip``, of the last byte: in a safetensors file it belongs to a tensor."""
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)


def remove(file: Path) -> None:
    """Delete it."""
    file.unlink()


OF_A_FILE: Final[Mapping[str, Callable[[Path], None]]] = {
    "truncated": truncate,
    "flipped": flip_last,
    "gone": remove,
}
"""Kind of damage → what does it."""
