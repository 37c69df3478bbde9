"""A child process that ends with its supervisor, even where that was killed.

The supervisor is named by process id and start time (`PID:START_TICKS`, field 22 of
`/proc/PID/stat`), so a reused id is never taken for it. Linux only.
"""

import os
import select
import threading
from typing import Final

from trainer_core.errors import Category, TrainerError
from trainer_core.process.stat import ProcessId, identify

EXIT_ORPHANED: Final = 70
"""Exit status of a child whose supervisor died."""


class SupervisorGoneError(TrainerError):
    """The process that asked for this work is not there any more."""

    code = "supervisor_gone"
    category = Category.INFRA
    retryable = True


def current_process_token() -> str:
    """This process as ``PID:START_TICKS``, to be handed to its children."""
    own = identify(os.getpid())
    assert own is not None
    return f"{own.pid}:{own.start_ticks}"


def parse_supervisor(text: str) -> ProcessId:
    """``PID:START_TICKS``; raises ValueError where it is anything else."""
    pid, separator, ticks = text.partition(":")
    if not (separator and pid.isdecimal() and ticks.isdecimal() and int(pid) > 0):
        raise ValueError(f"a supervisor is written PID:START_TICKS, not {text!r}")
    return ProcessId(int(pid), int(ticks))


def start_watch(pid: int, start_ticks: int) -> threading.Thread:
    """End this process with status 70 as soon as the supervisor dies; returns the daemon thread.

    No clean-up runs then: what was not committed was never there. Raises SupervisorGoneError where
    the supervisor is gone already.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise SupervisorGoneError(f"no process {pid} to work for") from error
    # The descriptor holds one process for good; only then is it asked which one that is.
    if identify(pid) != (pid, start_ticks):
        os.close(descriptor)
        raise SupervisorGoneError(f"process {pid} is another one than the supervisor")
    thread = threading.Thread(
        target=_exit_with, args=(descriptor,), name="supervisor-watch", daemon=True
    )
    thread.start()
    return thread


def _exit_with(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)  # readable when the process has ended
    poll.poll()
    os._exit(EXIT_ORPHANED)
