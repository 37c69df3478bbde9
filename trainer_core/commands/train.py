"""`python -m trainer_core train`: one run as a process.

Exit status: 0 finished, 75 stopped on request, 1 failed, 2 wrong usage, 70 the supervisor died.
After 0, 75 and 1 the last event is ``finished``, ``stopped`` or ``failed``. Several ranks are begun
by `python -m trainer_core launch`: rank 0 writes the events, and the launcher ``failed``.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from trainer_core.config.plan.matmul import is_8bit, picks_by_card
from trainer_core.errors import BaseModelError
from trainer_core.process.control import Control
from trainer_core.process.cublas import fix_workspace
from trainer_core.process.cuda_memory import let_segments_grow
from trainer_core.process.event_texts import print_event
from trainer_core.process.events import EventWriter
from trainer_core.process.failure import failure_as_json, failure_of
from trainer_core.process.job import Job, read_job
from trainer_core.process.node_cache import keep_kernels
from trainer_core.process.own_card import see_own_card
from trainer_core.process.rank_log import print_to
from trainer_core.process.ranks import Launched, launched_in, report_failure
from trainer_core.process.supervision import parse_supervisor, start_watch
from trainer_core.weights.files import kept_files, weight_files
from trainer_core.weights.read_ahead import start_read_ahead

EXIT_FAILED: Final = 1
EXIT_STOPPED: Final = 75


def main(argv: Sequence[str]) -> int:
    """Run the job and return the exit status, as listed above."""
    args = train_parser().parse_args(argv)
    if args.supervisor is not None:
        start_watch(*args.supervisor)
    launched = launched_in(os.environ)
    control = Control(args.control)
    control.stop_on_sigterm()
    if launched is not None:
        _join_launcher(launched, control)
    # Only rank 0 writes events.
    rank = int(os.environ.get("RANK", "0"))
    with EventWriter(args.events if rank == 0 else Path(os.devnull)) as events:
        if rank == 0:
            events.listen("the log", print_event)
        return _guarded(args.job, events, control, launched)


def _join_launcher(launched: Launched, control: Control) -> None:
    """End when the launcher does, and print where it looks."""
    start_watch(*launched.launcher)
    if launched.rank > 0:
        print_to(launched.log_file)
    signal.signal(signal.SIGINT, lambda *_: control.request_stop())
    # The launcher has blocked them, so that none ended this process before it handles them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


def _guarded(job: Path, events: EventWriter, control: Control, launched: Launched | None) -> int:
    """Run the job; any failure becomes the last event."""
    try:
        control.on_unknown(partial(events.warn, "unknown_control"))
        finished = _run(read_job(job), events, control)
    except Exception as error:  # noqa: BLE001 - the process's outermost loop
        traceback.print_exc(file=sys.stderr)
        if launched is not None:
            _end_with(launched, error)
        events.emit("failed", events.last_step, failure_as_json(failure_of(error)))
        return EXIT_FAILED
    return 0 if finished else EXIT_STOPPED


def _end_with(launched: Launched, error: Exception) -> NoReturn:
    """Report the failure of this rank to its launcher, which writes the last event, and end.

    Exit handlers do not run: those of libraries may wait for other ranks.
    """
    report_failure(launched, error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def _run(job: Job, events: EventWriter, control: Control) -> bool:
    keep_kernels(job.node_cache, os.environ)
    see_own_card(job.plan.operation, os.environ)
    let_segments_grow(os.environ)
    fix_workspace(job.plan.operation, os.environ)
    start_read_ahead(_likely_files(job))
    # Importing takes seconds, in which the disk reads weights.
    from trainer_core.engine.determinism import set_determinism  # noqa: PLC0415 - imports torch
    from trainer_core.engine.loop import run_job  # noqa: PLC0415 - the same

    set_determinism(os.environ, job.plan.operation)
    return run_job(job, events, control)


def _likely_files(job: Job) -> Sequence[Path]:
    """The weights that the run will read. A wrong guess costs no more than the reading."""
    identity = job.plan.identity
    kinds = picks_by_card(identity.precision, job.plan.operation.device).values()
    if job.node_cache is not None and any(kind and is_8bit(kind) for kind in kinds):
        kept = kept_files(job.node_cache.weights_dir, identity.base.digest)
        if kept:
            return kept[:1]
    try:
        return weight_files(Path(job.base_model_dir) / "transformer")
    except BaseModelError:  # reported when the base model is loaded
        return ()


def train_parser() -> argparse.ArgumentParser:
    """Of the command's arguments, which a launcher reads, too."""
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
