"""`python -m trainer_core launch`: torchrun, whose ranks fail together.

It takes the options of torchrun, and then `-m trainer_core train` with its own. Several nodes each
run it, with the same `--rdzv-endpoint`. Where torchrun alone lets ranks wait for one that has
failed, and tells no reason, it ends all of them, and the first failure is the last event.

Exit status: as of `train`, whichever rank it was: 0 finished, 75 stopped on request, 1 failed, 2
wrong usage, 70 the supervisor died, 130 stopped at once by a second Ctrl-C.
"""

import argparse
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any, Final

from trainer_core.commands.rank_watch import RankWatch
from trainer_core.commands.train import EXIT_FAILED, EXIT_STOPPED, train_parser
from trainer_core.process.events import OUTCOMES, Event, EventReader, EventWriter
from trainer_core.process.failure import failure_as_json
from trainer_core.process.rank_log import end_of_log, forget_logs
from trainer_core.process.ranks import (
    FOLDER,
    LAUNCHER,
    RankFailure,
    forget_failure,
    log_file_of,
    read_failure,
)
from trainer_core.process.supervision import current_process_token, start_watch

_EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130
_SHOWN_LINES: Final = 40
_OWN_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_TORCHRUN: Final = ("--signals-to-handle", "SIGHUP,SIGQUIT", "--monitor-interval", "0.5")
"""``RankWatch`` handles the other signals, and reads the status of a rank before torchrun does."""


def main(argv: Sequence[str]) -> int:
    """Start the ranks of this node, wait for their end, and return the exit status."""
    began_s = time.monotonic()
    # Before torch is imported, since its threads inherit it, and so do the ranks: none of them
    # can be ended by a signal that it does not handle yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)
    from torch.distributed import run as torchrun  # noqa: PLC0415 - imports torch

    options = torchrun.parse_args([*_TORCHRUN, *argv])  # type: ignore[no-untyped-call]
    least, nodes = torchrun.parse_min_max_nnodes(options.nnodes)
    if (problem := _problem(options, is_range=least != nodes)) is not None:
        sys.stderr.write(f"python -m trainer_core launch: {problem}\n")
        return _EXIT_USAGE
    _, *arguments = dropwhile(lambda each: each != "train", options.training_script_args)
    train = train_parser().parse_args(arguments)
    if train.supervisor is not None:
        start_watch(*train.supervisor)
    events: Path = train.events.absolute()
    folder = events.parent
    folder.mkdir(parents=True, exist_ok=True)
    forget_failure(folder)
    forget_logs(folder)
    os.environ |= {LAUNCHER: current_process_token(), FOLDER: str(folder), "PYTHONUNBUFFERED": "1"}
    if nodes == 1:  # a machine's name need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    outcome = _Outcome(events, began_s)
    ranks = torchrun.determine_local_world_size(options.nproc_per_node)
    with RankWatch(folder, _OWN_SIGNALS, ranks=ranks, nodes=nodes) as watch:
        _run(torchrun, options, watch)
        watch.kill()  # those that torchrun gave up
    return outcome.status(read_failure(folder), folder, watch)


def _problem(options: argparse.Namespace, *, is_range: bool) -> str | None:
    """What is wrong with the options. ``is_range``: of --nnodes."""
    if options.max_restarts:
        return "--max-restarts has to be 0: a run goes on from its checkpoint when it starts again"
    if is_range:
        return "--nnodes has to be one number: a step is shared among a fixed number of ranks"
    if "train" not in options.training_script_args:
        return "after the options of torchrun comes: -m trainer_core train --job FILE …"
    return None


def _run(torchrun: Any, options: argparse.Namespace, watch: RankWatch) -> None:
    """Run torchrun to its end, whatever it is."""
    from torch.distributed.elastic.multiprocessing.api import (  # noqa: PLC0415 - imports torch
        SignalException,
    )
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415 - the same
        ChildFailedError,
    )

    try:
        torchrun.run(options)
    except ChildFailedError as error:
        for rank, failed in error.failures.items():
            watch.note_status(rank, failed.exitcode)
    except SignalException as error:
        watch.note_failure(f"the launcher got {signal.Signals(error.sigval).name}")
    except Exception as error:  # noqa: BLE001 - such as a lost rendezvous
        sys.stderr.write(f"torchrun failed: {type(error).__name__}: {error}\n")
        watch.note_failure("torchrun failed, or lost another node")


class _Outcome:
    """What the ranks' end means, and the event that tells it where rank 0 could not."""

    def __init__(self, events: Path, began_s: float) -> None:
        """Before the ranks start. ``began_s``: when the launcher did, of ``time.monotonic``."""
        self._events = events
        self._began_s = began_s
        self._reader = EventReader(events, on_unreadable=lambda _: None)
        self._last()  # of an earlier start

    def status(self, failure: RankFailure | None, folder: Path, watch: RankWatch) -> int:
        """The exit status. Prints the failure, and writes the event on the node of rank 0."""
        last = self._last()
        if last is not None and last.name == "finished":
            return 0
        if last is not None and last.name == "stopped":
            return EXIT_STOPPED
        if failure is None:
            return _status_of(watch)
        _show(failure, folder)
        if watch.has_rank_0 and (last is None or last.name not in OUTCOMES):
            with EventWriter(self._events, began_s=self._began_s) as writer:
                step = 0 if last is None else last.step
                writer.emit("failed", step, failure_as_json(failure.failure))
        return _EXIT_INTERRUPTED if watch.is_interrupted else EXIT_FAILED

    def _last(self) -> Event | None:
        """The newest event since the last call."""
        return next(iter(deque(self._reader.new_events(), maxlen=1)), None)


def _status_of(watch: RankWatch) -> int:
    """Of a node whose ranks did not fail, and where the events cannot be seen."""
    if EXIT_STOPPED in watch.statuses.values():
        return EXIT_STOPPED
    return EXIT_FAILED if any(watch.statuses.values()) else 0


def _show(failed: RankFailure, folder: Path) -> None:
    """Print the failure and, for a rank that has a log, the end of it."""
    lines = [f"failed: {failed.failure.message}"]
    if failed.rank:
        file = log_file_of(folder, failed.rank)
        end = end_of_log(file, _SHOWN_LINES) or ["(empty)"]
        lines += [f"the end of {file.name}:", *(f"  {line}" for line in end)]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()
