"""How much memory this machine has for its processes."""

import os
from pathlib import Path
from typing import Final

_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container finds its own limit: in version 2 and in version 1 of control groups."""


def host_bytes() -> int:
    """Bytes of memory of this machine, or of the container where that may use less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # another version, or "max", which is no limit
            continue
    return min(found)
