"""Watches the ranks that torchrun has started on this node, from a thread of the launcher."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trainer_core.commands.train import EXIT_STOPPED
from trainer_core.process.failure import failure_of
from trainer_core.process.ranks import LAUNCHER, died, read_failure, write_failure
from trainer_core.process.stat import read_stat
from trainer_core.process.supervision import EXIT_ORPHANED

_LOOK_EVERY_S: Final = 0.1
_GRACE_S: Final = 5.0
"""After the first failure: time for the others to print where they were, and end."""
_ORDERLY: Final = frozenset({0, EXIT_STOPPED, EXIT_ORPHANED})


class RankWatch:
    """Hands signals on to the ranks, and ends all of them where one has failed, on any node.

    torchrun itself waits up to 30 s for ranks that wait for the failed one, and does not see ranks
    of other nodes.
    """

    def __init__(
        self, folder: Path, signals: frozenset[signal.Signals], *, ranks: int, nodes: int
    ) -> None:
        """
        Args:
            folder: of ``failure.json``.
            signals: SIGTERM and SIGINT, which every thread of this process blocks.
            ranks: of this node.
            nodes: that torchrun waits for before it starts any rank.
        """
        self._folder = folder
        self._signals = signals
        self._expected = ranks
        self._nodes = nodes
        self._ranks: dict[int, int] = {}
        """Rank → its process."""
        self._living: set[int] = set()
        """Ranks."""
        self._told: set[int] = set()
        """Ranks that were asked to stop."""
        self._awaiting: list[threading.Thread] = []
        self._changed = threading.Lock()
        self._is_over = threading.Event()
        self._kill_at_s: float | None = None
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self.statuses: dict[int, int] = {}
        """Rank → exit status, negative for a signal; of those that have ended."""
        self.is_interrupted = False
        """Whether a second Ctrl-C has ended the ranks at once."""
        self._is_stopping = False

    @property
    def has_rank_0(self) -> bool:
        return 0 in self._ranks

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for each in self._awaiting:
            each.join(_LOOK_EVERY_S)  # the ranks have ended, unless the kernel holds one

    def note_failure(self, how: str) -> None:
        """The launcher itself cannot go on."""
        write_failure(self._folder, None, died(how))

    def note_status(self, rank: int, status: int) -> None:
        """What torchrun says of a rank: it may have ended before this thread found it."""
        with self._changed:
            self._ranks.setdefault(rank, 0)
            status = self.statuses.setdefault(rank, status)
        self._report(rank, status)

    def kill(self) -> None:
        """SIGKILL to all ranks of this node that still run, and to what they have started."""
        with self._changed:
            for rank in self._living:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._ranks[rank], signal.SIGKILL)  # each has a session of its own

    def _watch(self) -> None:
        while not self._is_over.is_set():
            taken = signal.sigtimedwait(self._signals, _LOOK_EVERY_S)
            if len(self._ranks) < self._expected:
                self._find_ranks()
            if taken is not None:
                self._take(signal.Signals(taken.si_signo))
            if self._is_stopping:
                self._ask_to_stop()
            if self._kill_at_s is None and read_failure(self._folder) is not None:
                self._kill_at_s = time.monotonic() + _GRACE_S
            if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
                self.kill()

    def _take(self, number: signal.Signals) -> None:
        """The first signal asks for a stop with a checkpoint; a second Ctrl-C ends at once."""
        if not self._ranks and self._nodes > 1:
            os._exit(EXIT_STOPPED)  # torchrun may wait for another node for long
        if number is signal.SIGINT and self._is_stopping:
            self.is_interrupted = True
            write_failure(self._folder, None, failure_of(KeyboardInterrupt()))
            self._kill_at_s = time.monotonic()
        self._is_stopping = True

    def _ask_to_stop(self) -> None:
        with self._changed:
            for rank in self._living - self._told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._ranks[rank], signal.SIGTERM)
                self._told.add(rank)

    def _find_ranks(self) -> None:
        for rank, pid in _ranks_started():
            if rank in self._ranks:
                continue
            with self._changed:
                self._ranks[rank] = pid
                self._living.add(rank)
            thread = threading.Thread(target=self._await, args=(rank, pid), daemon=True)
            thread.start()
            self._awaiting.append(thread)

    def _await(self, rank: int, pid: int) -> None:
        """Wait for the end of a rank, and leave its status to torchrun, too."""
        try:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            ended = None  # torchrun was faster, and tells the status
        with self._changed:
            self._living.discard(rank)
            if ended is None:
                return
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self.statuses[rank] = status
        self._report(rank, status)

    def _report(self, rank: int, status: int) -> None:
        """Write the failure of a rank that has written none itself."""
        if status not in _ORDERLY:
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            write_failure(self._folder, rank, died(how))


def _ranks_started() -> Iterator[tuple[int, int]]:
    """Rank and process id of each child of this process that torchrun has started as a rank."""
    own = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        stat = read_stat(int(entry.name))
        if stat is None or stat.parent_pid != own:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            body = (entry / "environ").read_bytes().decode(errors="replace")
            env = dict(each.split("=", 1) for each in body.split("\0") if "=" in each)
            if LAUNCHER in env:
                yield int(env["RANK"]), int(entry.name)
