"""Several processes that accept on one socket: a dead one is replaced, and all stop together.

They are forked, so that they share the memory of imported code. uvicorn has a supervisor, too, but
its processes live on when it is killed, and all of them stop when one replacement cannot start.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from typing import Final

import structlog
from uvicorn.config import STARTUP_FAILURE

from services.processes.launch import die_with_parent

log = structlog.get_logger(__name__)

_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOP_SIGNALS | {signal.SIGCHLD}
_CANNOT_START: Final = frozenset({2, STARTUP_FAILURE})
"""Exit statuses for a wrong setting and for a failed start."""
_REPLACE_AFTER_S: Final = 1.0
_TICK_S: Final = 0.05


def fork_processes(number: int, *, stop_s: float) -> int:
    """Fork ``number`` processes and keep that many running until SIGTERM or SIGINT.

    Call it while this process has one thread. It returns only in the new processes. This one exits:
    with 0 after a requested stop, and with the status of a process that says that it cannot start.
    That holds for the first processes only; a later one is replaced whatever its status.

    Args:
        stop_s: time for the orderly exit of the processes before they are killed.

    Returns:
        Which of the processes this one is, from 0; a replacement has the number of the dead one.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    running: dict[int, int] = {}
    first: frozenset[int] = frozenset()
    while True:
        for each in set(range(number)) - set(running.values()):
            pid = _fork()
            if pid is None:
                return each
            running[pid] = each
        first = first or frozenset(running)
        if signal.sigwait(_SIGNALS) in _STOP_SIGNALS:
            _stop(running, stop_s)
            sys.exit(0)
        for pid, status in _ended():
            running.pop(pid, None)
            log.warning("api_process_ended", pid=pid, status=status)
            if pid in first and status in _CANNOT_START:
                _stop(running, stop_s)
                sys.exit(status)
        if len(running) < number and signal.sigtimedwait(_STOP_SIGNALS, _REPLACE_AFTER_S):
            _stop(running, stop_s)
            sys.exit(0)


def _fork() -> int | None:
    """The pid of a new process; None in that process."""
    parent_pid = os.getpid()
    pid = os.fork()
    if pid != 0:
        return pid
    die_with_parent(signal.SIGKILL, parent_pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return None


def _stop(running: Collection[int], stop_s: float) -> None:
    """SIGTERM to all, SIGKILL to those that are left after ``stop_s``; returns when all ended."""
    left = set(running)
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    end_s = time.monotonic() + stop_s
    while left:
        left -= {pid for pid, _ in _ended()}
        if time.monotonic() > end_s:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_TICK_S)


def _ended() -> Iterator[tuple[int, int]]:
    """Pid and exit status (-N: ended by signal N) of each process that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield found[0], os.waitstatus_to_exitcode(found[1])
