"""The end of a process: its threads are waited for with a bound, and named where they stay."""

import os
import sys
import threading
import time
from typing import Final, NoReturn

import structlog

log = structlog.get_logger(__name__)

_LEFT_OVER_S: Final = 5.0


def wait_for_end(thread: threading.Thread, within_s: float) -> None:
    """Wait until a thread ends, which was asked to; not for longer than this time.

    Where it does not end, a warning names it and the line that it runs. It should be a daemon, or
    Python waits for it nevertheless.
    """
    thread.join(within_s)
    if thread.is_alive():
        log.warning("thread_did_not_end", thread=thread.name, waited_s=within_s, at=_place(thread))


def leave(status: int, *, within_s: float = _LEFT_OVER_S) -> NoReturn:
    """End the process with this status, also where threads work on.

    At its end Python waits for threads that are no daemons, such as those of a pool, without a
    bound: an upload that was abandoned would hold the process until a hanging store answers.
    """
    own = threading.main_thread()
    left = [each for each in threading.enumerate() if not each.daemon and each is not own]
    ends_at_s = time.monotonic() + within_s
    for thread in left:
        wait_for_end(thread, max(0.0, ends_at_s - time.monotonic()))
    if any(thread.is_alive() for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _place(thread: threading.Thread) -> str | None:
    """``FILE:LINE`` of what it runs now; None where it has ended meanwhile."""
    frame = sys._current_frames().get(thread.ident or 0)
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
