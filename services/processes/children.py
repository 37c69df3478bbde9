"""Child processes of the workers: what they are told of the environment, and how they are ended.

The environment is an allow-list, so a new secret of the service never reaches code that holds
tenants' data: no token, database, broker, object store or AWS credential is on it.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NAMES: Final = frozenset(
    {
        "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH",
        "PYTHONPATH", "PYTHONHASHSEED", "PYTHONFAULTHANDLER", "VIRTUAL_ENV",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XDG_CACHE_HOME",
        # Test faults; the child refuses them unless REVERIE_ENV is `test`.
        "REVERIE_ENV", "FAULT_AT", "FAULT_ONCE",
    }
)  # fmt: skip
_PREFIXES: Final = ("CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TRITON_")


def environment_for_child(env: Mapping[str, str]) -> dict[str, str]:
    """The part of ``env`` that a child process may see, and no network for model libraries."""
    allowed = {
        name: value for name, value in env.items() if name in _NAMES or name.startswith(_PREFIXES)
    }
    return {**allowed, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def kill_tree(pid: int) -> None:
    """SIGKILL a child of ours and everything below it; what is gone already is passed over.

    Launchers of several ranks give each rank a session of its own, so a process group is not
    enough. ``pid`` must not have been waited for yet, or its number may be another process's.
    """
    for each in (pid, *_descendants(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent_of(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, frontier = [], [pid]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def _parent_of(process: Path) -> int | None:
    try:
        stat = (process / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # it ended while we looked
    # The name in field 2 may hold spaces and brackets; fields are safe after the last bracket.
    return int(stat.rpartition(")")[2].split()[1])
