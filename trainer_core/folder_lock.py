"""A folder in which one process works at a time."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainer_core.progress import Reporter

_TRY_EVERY_S: Final = 0.2


@contextlib.contextmanager
def locked_folder(folder: Path, reporter: Reporter, *, other: str) -> Iterator[None]:
    """Lock a folder that is there; waits while another process has the lock.

    The system takes the lock from a process that ends, so the wait has no bound of its own: a stop
    ends it.

    Args:
        folder: gets the file ``.lock``, which stays.
        reporter: is told of a wait, and can stop it.
        other: what the other process is and does, for that message.
    """
    with (folder / ".lock").open("a") as lock:
        is_reported = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_reported:
                    reporter.log(f"waiting for {other} {folder}")
                is_reported = True
                reporter.check_control()
                time.sleep(_TRY_EVERY_S)
            else:
                break
        yield
