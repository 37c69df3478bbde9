"""Processes seen through /proc: who they are, who started them, and how to end them for certain."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessId:
    """A pid with its start time, so that a number given to someone else is never mistaken."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""


def _stat_fields(pid: int) -> list[str] | None:
    """Fields 3 and on of /proc/PID/stat (state first); None where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def identify(pid: int) -> ProcessId | None:
    """The process that holds this pid now; None where none does."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessId(pid=pid, start_ticks=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs; a zombie does not."""
    fields = _stat_fields(process.pid)
    return fields is not None and fields[0] != "Z" and int(fields[19]) == process.start_ticks


def descendants(roots: Iterable[int]) -> list[ProcessId]:
    """Children of these pids, their children, and so on, as they stand now; not the roots."""
    children: dict[int, list[ProcessId]] = {}
    for entry in Path("/proc").iterdir():
        fields = _stat_fields(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None:
            found = ProcessId(pid=int(entry.name), start_ticks=int(fields[19]))
            children.setdefault(int(fields[1]), []).append(found)
    seen: list[ProcessId] = []
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), []):
            seen.append(child)
            waiting.append(child.pid)
    return seen


def end_all(processes: Iterable[ProcessId], *, grace_s: float) -> list[ProcessId]:
    """Wait for processes that are ending by themselves, then kill; returns whom it killed."""
    deadline = time.monotonic() + grace_s
    left = [p for p in processes if is_alive(p)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [p for p in left if is_alive(p)]
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return left
