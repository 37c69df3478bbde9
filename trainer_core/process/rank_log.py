"""The log file of a rank, which is bounded. Imports no torch."""

import os
import threading
import time
from pathlib import Path
from typing import Final

_LIMIT_BYTES: Final = 1 << 20
_LOOK_EVERY_S: Final = 1.0
_STDOUT: Final = 1
_STDERR: Final = 2


def print_to(file: Path) -> None:
    """Append all that this process prints to a file from now on.

    A file of more than 1 MiB becomes ``NAME.1``, whose earlier content is lost, and a new one is
    begun. Raises OSError.
    """
    _open(file)
    thread = threading.Thread(target=_bound, args=(file,), name="rank-log", daemon=True)
    thread.start()


def end_of_log(file: Path, lines: int) -> list[str]:
    """The last lines of such a log; none where there is no file."""
    found: list[str] = []
    for each in (_older(file), file):
        if each.exists():
            found += each.read_text(encoding="utf-8", errors="replace").splitlines()
    return found[-lines:]


def forget_logs(folder: Path) -> None:
    """Delete the logs of an earlier start; raises OSError."""
    for file in folder.glob("rank-*.log*"):
        file.unlink(missing_ok=True)


def _open(file: Path) -> None:
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(opened, _STDOUT)
    os.dup2(opened, _STDERR)
    os.close(opened)


def _bound(file: Path) -> None:
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            if file.stat().st_size > _LIMIT_BYTES:
                file.replace(_older(file))
                _open(file)
        except OSError:
            return  # the disk has gone or is full: the training finds out by itself


def _older(file: Path) -> Path:
    return file.with_name(f"{file.name}.1")
