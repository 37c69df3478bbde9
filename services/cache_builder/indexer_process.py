"""Keeps the process that admits runs alive beside the cache builder."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from services.metrics.work import indexer_deaths
from services.processes.child import ChildProcess
from services.processes.threads import wait_for_end
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""After a run of this length the pause before a restart is short again."""
_STOP_S: Final = 20.0
_KILL_S: Final = 10.0
"""For SIGKILL to it and its children; a process in a system call that hangs outlasts it."""
_TICK_S: Final = 0.2


class IndexerProcess:
    """Started with the block and ended with it; started again where it ends before."""

    def __init__(self, command: Sequence[str]) -> None:
        """``command``: the program and its arguments; ``--supervisor`` is added."""
        self._command = tuple(command)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name="indexer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ask_to_stop()
        wait_for_end(self._thread, _STOP_S + _KILL_S)

    def ask_to_stop(self) -> None:
        """May be called in a signal handler."""
        self._stopping.set()

    def _keep_running(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                process = ChildProcess(
                    [*self._command, "--supervisor", current_process_token()], env=os.environ
                )
            except OSError:  # no memory or no process is free at the moment
                log.exception("indexer_not_started", retry_s=_LONGEST_PAUSE_S)
                self._stopping.wait(_LONGEST_PAUSE_S)
                continue
            started_s = time.monotonic()
            while process.is_running and not self._stopping.wait(_TICK_S):
                pass
            if not process.is_running:
                if time.monotonic() - started_s > _STEADY_S:
                    pause_s = _FIRST_PAUSE_S
                indexer_deaths.inc()
                log.error("indexer_ended", how=process.exit_in_words(), restart_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_S)
            process.kill()
