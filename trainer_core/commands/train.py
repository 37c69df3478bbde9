"""`python -m trainer_core train`: one run as a process.

Exit status: 0 finished, 75 stopped on request, 1 failed, 2 wrong usage, 70 the supervisor died.
After 0, 75 and 1 the last event is ``finished``, ``stopped`` or ``failed``.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from trainer_core.engine.loop import run_job
from trainer_core.engine.setup import make_deterministic
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.failure import failure_as_json, failure_of
from trainer_core.process.job import read_job
from trainer_core.process.node_cache import keep_kernels
from trainer_core.process.supervision import parse_supervisor, start_watch

EXIT_FAILED: Final = 1
EXIT_STOPPED: Final = 75


def main(argv: Sequence[str]) -> int:
    """Run the job and return the exit status, as listed above."""
    args = _parser().parse_args(argv)
    if args.supervisor is not None:
        start_watch(*args.supervisor)
    control = Control(args.control)
    control.stop_on_sigterm()
    # Only rank 0 writes events.
    rank = int(os.environ.get("RANK", "0"))
    with EventWriter(args.events if rank == 0 else Path(os.devnull)) as events:
        return _guarded(args.job, events, control)


def _guarded(job: Path, events: EventWriter, control: Control) -> int:
    """Run the job; any failure becomes the last event."""
    try:
        control.on_unknown(partial(events.warn, "unknown_control"))
        read = read_job(job)
        keep_kernels(read.node_cache, os.environ)
        make_deterministic(os.environ)
        finished = run_job(read, events, control)
    except Exception as error:  # noqa: BLE001 - the process's outermost loop
        traceback.print_exc(file=sys.stderr)
        events.emit("failed", events.last_step, failure_as_json(failure_of(error)))
        return EXIT_FAILED
    return 0 if finished else EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_core train", description="Train one run as its job file says."
    )
    parser.add_argument("--job", type=Path, required=True, metavar="FILE", help="the job, JSON")
    parser.add_argument(
        "--events",
        type=Path,
        required=True,
        metavar="FILE",
        help="events are appended here, one JSON object a line",
    )
    parser.add_argument(
        "--control",
        type=Path,
        metavar="FILE",
        help="read between steps: run, pause or stop (no file: run)",
    )
    parser.add_argument(
        "--supervisor",
        type=parse_supervisor,
        metavar="PID:START_TICKS",
        help="end when this process ends; its start time is field 22 of /proc/PID/stat",
    )
    return parser
