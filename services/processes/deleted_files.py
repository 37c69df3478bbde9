"""Deleted files that still take disk space, because a process has them mapped into memory."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_MAPPING: Final = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) \S+ (?P<offset>[0-9a-f]+) "
    r"(?P<device>\S+) (?P<inode>\d+) +(?P<path>.*) \(deleted\)"
)
"""A line of ``/proc/PID/maps`` (proc(5))."""


def mapped_deleted_bytes(pids: Iterable[int], folder: Path) -> int:
    """Size of the deleted files of ``folder`` that any of the processes maps, each counted once.

    As far as they are mapped: libraries map whole files. A process that has ended maps nothing.
    """
    below = f"{folder}/"
    sizes: dict[tuple[str, str], int] = {}
    for pid in pids:
        for line in _maps_of(pid).splitlines():
            if below not in line or (found := _MAPPING.fullmatch(line)) is None:
                continue
            if not found["path"].startswith(below):
                continue
            length = int(found["end"], 16) - int(found["start"], 16)
            file = found["device"], found["inode"]
            sizes[file] = max(sizes.get(file, 0), int(found["offset"], 16) + length)
    return sum(sizes.values())


def _maps_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
