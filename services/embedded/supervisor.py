"""Keep children running: start, wait until ready, start again, stop in order.

Everything here runs on one thread, because a child dies with the thread that started it.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from services.embedded.child import Child
from services.embedded.errors import ChildDiedError, StackError
from services.embedded.processes import ProcessId, descendants, end_all

log = structlog.get_logger()

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_STEADY_S = 60.0
"""A child that ran this long starts its backoff anew."""
_TICK_S = 0.05
_FORCED_SERVER_S = 5.0


class Restart:
    """When a child that ended is started again."""

    def __init__(self) -> None:
        self.backoff_s = _FIRST_BACKOFF_S
        self.due_at_s: float | None = None

    def schedule(self, child: Child, now_s: float) -> float:
        """Note the child's end; returns the pause in seconds."""
        if now_s - child.started_at_s > _STEADY_S:
            self.backoff_s = _FIRST_BACKOFF_S
        pause_s = self.backoff_s
        self.due_at_s = now_s + pause_s
        self.backoff_s = min(self.backoff_s * 2, _LONGEST_BACKOFF_S)
        return pause_s


def wait_ready(
    child: Child, is_ready: Callable[[], bool], *, deadline_s: float, stop_asked: Callable[[], bool]
) -> None:
    """Wait until the child answers.

    Raises:
        ChildDiedError: it ended first; the message shows the end of its log.
        StackError: it lives and does not answer in time, or we are asked to stop.
    """
    name = child.spec.name
    end_s = time.monotonic() + deadline_s
    while not is_ready():
        if (code := child.exit_code()) is not None:
            raise ChildDiedError(
                f"{name} ended with code {code} at its start; its log is {child.log_file}:\n"
                f"{child.last_lines()}"
            )
        if stop_asked():
            raise StackError("stopped before it was up")
        if time.monotonic() > end_s:
            raise StackError(f"{name} does not answer after {deadline_s:g} s; see {child.log_file}")
        time.sleep(_TICK_S)


def watch(
    children: Sequence[Child], *, stop_asked: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Start processes again as they end, until asked to stop.

    Raises:
        StackError: a server ended; nothing works without it.
    """
    restarts = {child.spec.name: Restart() for child in children}
    while not stop_asked():
        now_s = time.monotonic()
        for child in children:
            restart = restarts[child.spec.name]
            if restart.due_at_s is not None:
                if now_s >= restart.due_at_s:
                    restart.due_at_s = None
                    child.start()
                continue
            code = child.exit_code()
            if code is None:
                continue
            if child.spec.is_server:
                raise StackError(
                    f"{child.spec.name} ended with code {code}; see {child.log_file}:\n"
                    f"{child.last_lines()}"
                )
            pause_s = restart.schedule(child, now_s)
            log.warning("child_ended", child=child.spec.name, code=code, restart_s=pause_s)
            say(f"{child.spec.name} ended with code {code}; starting it again in {pause_s:g} s")
        time.sleep(_TICK_S)


def stop_in_order(groups: Sequence[Sequence[Child]], *, force_asked: Callable[[], bool]) -> None:
    """Ask each group to stop, wait for it, kill what stays; then the next. Leaves nothing."""
    for group in groups:
        living = [child for child in group if child.pid is not None]
        below = descendants([child.pid for child in living if child.pid is not None])
        for child in living:
            child.ask_to_stop()
        for child in living:
            _wait_or_kill(child, force_asked)
        for child in group:
            child.kill()  # what it left in its process group goes too
        _end_orphans(below, force_asked)


def _wait_or_kill(child: Child, force_asked: Callable[[], bool]) -> None:
    began_s = time.monotonic()
    # Forcing is about waiting for a checkpoint; a server still closes its files, which is quick.
    least_s = _FORCED_SERVER_S if child.spec.is_server else 0.0
    while not child.wait(_TICK_S):
        waited_s = time.monotonic() - began_s
        if waited_s > child.spec.stop_s or (force_asked() and waited_s >= least_s):
            log.warning("child_killed", child=child.spec.name)
            return


def _end_orphans(below: Sequence[ProcessId], force_asked: Callable[[], bool]) -> None:
    """Children of children end by themselves when their parent does; see that they have."""
    killed = end_all(below, grace_s=0 if force_asked() else 5)
    if killed:
        log.warning("orphans_killed", pids=[process.pid for process in killed])
