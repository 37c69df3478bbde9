"""The descendants of a process: find them through /proc, signal them, kill them."""

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
    """Whether this process (same pid and start time) still runs; a zombie does not."""
    stat = read_stat(process.pid)
    return stat is not None and stat.state != "Z" and stat.start_ticks == process.start_ticks


def descendants(roots: Iterable[int]) -> list[ProcessId]:
    """All running descendants of these pids, without the pids themselves."""
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
    """The running processes that were started with this environment variable.

    A descendant inherits it and keeps it when it gets another parent. Not found are processes of
    another user, and those that overwrite their environment, as PostgreSQL does. Source:
    proc_pid_environ(5).
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
    """Send a signal to this process (same pid and start time); no effect where it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # A pidfd refers to one process for ever, so the identity is checked after opening it.
        if identify(process.pid) == process:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def end_all(processes: Iterable[ProcessId], *, grace_s: float) -> list[ProcessId]:
    """Wait until the processes have ended, then kill the rest; returns those it killed."""
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
