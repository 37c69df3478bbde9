"""End a child process when its supervisor dies, even if the supervisor was killed.

The supervisor is named by process id and start time (`PID:START_TICKS`, field 22 of
`/proc/PID/stat`), so a process with a reused id is not mistaken for it. Linux only.
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
    """The supervisor of this process no longer exists."""

    code = "supervisor_gone"
    category = Category.INFRA
    retryable = True


def current_process_token() -> str:
    """This process as ``PID:START_TICKS``, to be passed to its children."""
    own = identify(os.getpid())
    assert own is not None
    return f"{own.pid}:{own.start_ticks}"


def parse_supervisor(text: str) -> ProcessId:
    """``PID:START_TICKS``; raises ValueError for any other text."""
    pid, separator, ticks = text.partition(":")
    if not (separator and pid.isdecimal() and ticks.isdecimal() and int(pid) > 0):
        raise ValueError(f"a supervisor is written PID:START_TICKS, not {text!r}")
    return ProcessId(int(pid), int(ticks))


def start_watch(pid: int, start_ticks: int) -> threading.Thread:
    """End this process with status 70 as soon as the supervisor dies; returns the daemon thread.

    No clean-up runs then; uncommitted files are ignored later. Raises SupervisorGoneError if the
    supervisor no longer exists.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise SupervisorGoneError(f"the supervisor (process {pid}) no longer exists") from error
    # The descriptor refers to one process only, so check its start time after opening it.
    if identify(pid) != (pid, start_ticks):
        os.close(descriptor)
        raise SupervisorGoneError(f"process {pid} is another one, the supervisor no longer exists")
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
