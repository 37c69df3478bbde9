"""Lets the disk read weights while the process still imports its libraries. Imports no torch."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_WINDOW_BYTES: Final = 64 << 20


def start_read_ahead(files: Sequence[Path]) -> threading.Thread:
    """Ask the kernel to read files into its page cache, one after the other, in a daemon thread.

    It is advice only: a file that cannot be read is left to whoever reads it later.
    """
    thread = threading.Thread(target=_read_ahead, args=(files,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _read_ahead(files: Sequence[Path]) -> None:
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            continue
        try:
            for offset in range(0, os.fstat(descriptor).st_size, _WINDOW_BYTES):
                os.posix_fadvise(descriptor, offset, _WINDOW_BYTES, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass
        finally:
            os.close(descriptor)
