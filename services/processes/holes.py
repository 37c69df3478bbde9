"""Free the disk space of the start of a file that another process still appends to."""

import ctypes
import os
from typing import BinaryIO, Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_BLOCK_BYTES: Final = 4096


def free_space(file: BinaryIO, start_byte: int, end_byte: int) -> None:
    """Free the whole blocks between two bytes of an open file; they read as zeros from then on.

    Its length stays. Nothing happens on a file system that cannot do it. Source: fallocate(2).
    """
    start = -(-start_byte // _BLOCK_BYTES) * _BLOCK_BYTES
    length = end_byte // _BLOCK_BYTES * _BLOCK_BYTES - start
    if length > 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate(
            file.fileno(),
            _KEEP_SIZE | _PUNCH_HOLE,
            ctypes.c_longlong(start),
            ctypes.c_longlong(length),
        )


def used_bytes(facts: os.stat_result) -> int:
    """What a file takes of the disk, without its holes."""
    return min(facts.st_size, facts.st_blocks * 512)
