"""Supervision of children: wait until they are ready, restart them, stop them in order.

Call all functions on one thread, because a child dies with the thread that started it.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from services.processes.errors import ChildDiedError, ChildError, StopAskedError
from services.processes.supervised import SupervisedChild
from services.processes.tree import descendants, end_all
from trainer_core.process.stat import ProcessId

log = structlog.get_logger()

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_STEADY_S = 60.0
"""After a run of this length the pause before a restart is short again."""
_TICK_S = 0.05
_FORCED_SERVER_S = 5.0


class Restart:
    """Schedules the restart of a child: after 1 s, and after twice the pause each further time."""

    def __init__(self) -> None:
        self._backoff_s = _FIRST_BACKOFF_S
        self._due_at_s: float | None = None

    @property
    def is_scheduled(self) -> bool:
        return self._due_at_s is not None

    def schedule(self, child: SupervisedChild, now_s: float) -> float:
        """Schedule a restart of the ended child; returns the seconds until then."""
        if now_s - child.started_at_s > _STEADY_S:
            self._backoff_s = _FIRST_BACKOFF_S
        pause_s = self._backoff_s
        self._due_at_s = now_s + pause_s
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        return pause_s

    def start_if_due(self, child: SupervisedChild, now_s: float) -> None:
        if self._due_at_s is not None and now_s >= self._due_at_s:
            self._due_at_s = None
            child.start()


def wait_ready(
    child: SupervisedChild,
    is_ready: Callable[[], bool],
    *,
    deadline_s: float,
    stop_asked: Callable[[], bool],
) -> None:
    """Wait until the child is ready.

    Raises:
        ChildDiedError: it ended first; the message shows the end of its log.
        StopAskedError: the caller wants to stop.
        ChildError: it is still not ready at the deadline.
    """
    name = child.spec.name
    end_s = time.monotonic() + deadline_s
    while not is_ready():
        if child.has_ended:
            how = child.exit_in_words()
            raise ChildDiedError(
                f"{name} ended ({how}) before it was ready; {child.log_in_words()}"
            )
        if stop_asked():
            raise StopAskedError(f"stopped before {name} was ready")
        if time.monotonic() > end_s:
            raise ChildError(f"{name} does not answer after {deadline_s:g} s; see {child.log_file}")
        time.sleep(_TICK_S)


def keep_running(
    children: Sequence[SupervisedChild],
    *,
    stop_asked: Callable[[], bool],
    report: Callable[[str], None],
) -> None:
    """Restart children that end, until asked to stop.

    Args:
        report: called with a sentence for each child that ended.

    Raises:
        ChildError: a server ended; the others cannot work without it.
    """
    restarts = [(child, Restart()) for child in children]
    while not stop_asked():
        now_s = time.monotonic()
        for child, restart in restarts:
            restart.start_if_due(child, now_s)
            if child.has_ended and not restart.is_scheduled:
                name, how = child.spec.name, child.exit_in_words()
                if child.spec.is_server:
                    raise ChildError(f"{name} ended ({how}); {child.log_in_words()}")
                pause_s = restart.schedule(child, now_s)
                log.warning("child_ended", child=name, how=how, restart_s=pause_s)
                report(f"{name} ended ({how}); it is started again in {pause_s:g} s")
        time.sleep(_TICK_S)


def stop_in_order(
    groups: Sequence[Sequence[SupervisedChild]], *, force_asked: Callable[[], bool]
) -> None:
    """Stop one group after the other: ask, wait, then kill. Leaves no process.

    When ``force_asked`` becomes true, only servers, which exit quickly, are still waited for.
    """
    for group in groups:
        living = [child for child in group if child.pid is not None]
        below = descendants([child.pid for child in living if child.pid is not None])
        for child in living:
            child.ask_to_stop()
        for child in living:
            _wait(child, force_asked)
        for child in group:
            child.kill()  # and descendants that it left running
        _end_orphans(below, force_asked)


def _wait(child: SupervisedChild, force_asked: Callable[[], bool]) -> None:
    began_s = time.monotonic()
    # Forcing skips the wait for a checkpoint. A server may still close its files, which is quick.
    least_s = _FORCED_SERVER_S if child.spec.is_server else 0.0
    while not child.wait(_TICK_S):
        waited_s = time.monotonic() - began_s
        if waited_s > child.spec.stop_s or (force_asked() and waited_s >= least_s):
            log.warning("child_killed", child=child.spec.name)
            return


def _end_orphans(below: Sequence[ProcessId], force_asked: Callable[[], bool]) -> None:
    """Wait shortly for a child's descendants to end by themselves, then kill them."""
    killed = end_all(below, grace_s=0 if force_asked() else 5)
    if killed:
        log.warning("orphans_killed", pids=[process.pid for process in killed])
