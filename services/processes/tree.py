"""Processes below a process: found through /proc, and ended for certain."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from trainer_core.process.stat import ProcessId, identify, read_stat

_TICK_S: Final = 0.05


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs; one that ended and was not waited for does not."""
    stat = read_stat(process.pid)
    return stat is not None and stat.state != "Z" and stat.start_ticks == process.start_ticks


def descendants(roots: Iterable[int]) -> list[ProcessId]:
    """The living children of these pids, their children, and so on; not the roots themselves."""
    children: dict[int, list[ProcessId]] = {}
    for pid in _pids():
        stat = read_stat(pid)
        if stat is not None and stat.state != "Z":
            children.setdefault(stat.parent_pid, []).append(ProcessId(pid, stat.start_ticks))
    found: list[ProcessId] = []
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child.pid)
    return found


def started_with(name: str, value: str) -> list[ProcessId]:
    """The living processes that were started with this environment variable.

    A process inherits it whoever its parent is by now. A process of another user, or one that
    overwrote its environment (PostgreSQL does), is not found. Source: proc_pid_environ(5).
    """
    entry = f"{name}={value}".encode()
    found = []
    for pid in _pids():
        process = identify(pid)
        with contextlib.suppress(OSError):
            is_marked = entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if process is not None and is_marked:
                found.append(process)
    return found


def send_signal(process: ProcessId, number: signal.Signals) -> None:
    """Send a signal to this very process; one that has ended is passed over."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor keeps to one process; only then is it asked which one that is.
        if identify(process.pid) == process:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def end_all(processes: Iterable[ProcessId], *, grace_s: float) -> list[ProcessId]:
    """Wait for processes that are ending by themselves, then kill; returns whom it killed."""
    deadline_s = time.monotonic() + grace_s
    left = [p for p in processes if is_alive(p)]
    while left and time.monotonic() < deadline_s:
        time.sleep(_TICK_S)
        left = [p for p in left if is_alive(p)]
    for process in left:
        send_signal(process, signal.SIGKILL)
    return left


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
