"""Read the state of a process from ``/proc/PID/stat``. Source: proc_pid_stat(5)."""

import os
import time
from pathlib import Path
from typing import NamedTuple


class ProcessId(NamedTuple):
    """Identifies a process: a process with a reused pid has another start time."""

    pid: int
    start_ticks: int
    """Clock ticks after boot at which it started (field 22)."""


class ProcessStat(NamedTuple):
    """The fields that are used here."""

    state: str
    """One letter (field 3); ``Z`` is a process that has ended and was not waited for yet."""
    parent_pid: int
    """Field 4."""
    start_ticks: int
    """Field 22."""


def read_stat(pid: int) -> ProcessStat | None:
    """The stat fields of a process; None if no process has this pid."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in field 2 may contain spaces and brackets, so split after the last bracket.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(state=fields[0], parent_pid=int(fields[1]), start_ticks=int(fields[19]))


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None if there is none."""
    stat = read_stat(pid)
    return None if stat is None else ProcessId(pid, stat.start_ticks)


def age_s(pid: int) -> float:
    """Seconds since the process started, to a clock tick (10 ms); 0 if there is none."""
    stat = read_stat(pid)
    if stat is None:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_ticks / os.sysconf("SC_CLK_TCK")
