"""Trains a local run with several processes, each on a GPU of its own, and follows their events.

The processes end with this one. What they print is in ``ranks/output.log`` in the output folder.
torchrun's own variables say that other nodes start ranks of the run, too.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Plan
from trainer_core.disk import writing
from trainer_core.errors import TrainerError
from trainer_core.process.control import Control, ControlRequest, write_control
from trainer_core.process.events import OUTCOMES, EventReader, EventWriter
from trainer_core.process.failure import Failure, failure_reported
from trainer_core.process.rank_count import most_ranks, require_even, visible_gpus
from trainer_core.process.ranks import read_failure
from trainer_core.process.supervision import current_process_token

_FOLDER: Final = "ranks"
_LAUNCHER: Final = ("-m", "trainer_core", "launch")
_PROGRAM: Final = ("-m", "trainer_core", "train")
_NODES: Final = "PET_NNODES"
"""torchrun takes its options from variables with this prefix."""


class RanksFailedError(TrainerError):
    """A rank has failed; code, category and message are those that it reported."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.code = failure.code
        self.category = failure.category
        self.retryable = failure.retryable


def local_ranks(plan: Plan, wanted: int | None, env: Mapping[str, str]) -> int:
    """How many processes train a plan here.

    ``wanted``: what the user asks for; None: for an adapter one for each GPU, as far as they share
    a step evenly, and else one. Raises DeviceError where so many cannot share a step.
    """
    if wanted is not None:
        require_even(plan.identity, wanted)
        return wanted
    if plan.identity.adapter is None or plan.operation.device == "cpu":
        return 1
    return most_ranks(plan.identity, max(1, visible_gpus(env)))


def has_other_nodes(env: Mapping[str, str]) -> bool:
    """Whether torchrun waits for launchers of other nodes."""
    return env.get(_NODES, "1") != "1"


def command_elsewhere(job_file: Path, output_dir: Path, ranks: int) -> str:
    """What starts the ranks of another node, with the same variables of torchrun there."""
    events = output_dir / _FOLDER / "events.jsonl"
    command = ["python", *_LAUNCHER, "--nproc-per-node", str(ranks), *_PROGRAM]
    return shlex.join([*command, "--job", str(job_file), "--events", str(events)])


def train_with_ranks(
    job_file: Path, output_dir: Path, control: Control, events: EventWriter, ranks: int
) -> bool:
    """Train the job of a file; True after it finished, False after it stopped on request.

    The ranks' events are emitted here, but for a failure, which is raised. They get the requests
    that ``control`` has, also those of signals.

    Raises RanksFailedError.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():  # rank 0 needs what encoding has kept
        torch.cuda.empty_cache()
    folder = output_dir / _FOLDER
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for name in ("events.jsonl", "control"):  # of an earlier start
            (folder / name).unlink(missing_ok=True)
    reader = EventReader(folder / "events.jsonl", on_unreadable=lambda _: None)
    with _started(job_file, folder, ranks) as launcher:
        told = ControlRequest.RUN
        while True:
            is_over = launcher.poll() is not None  # first: an outcome may come before the end
            for event in reader.new_events():
                if event.name == "failed":
                    raise RanksFailedError(failure_reported(event.data))
                events.emit(event.name, event.step, event.data)
                if event.name in OUTCOMES:
                    launcher.wait()
                    return event.name == "finished"
            if is_over:
                raise _ended(launcher.returncode, folder)
            if (request := control.requested()) is not told:
                write_control(folder / "control", request)
                told = request
            control.wait()


@contextmanager
def _started(job_file: Path, folder: Path, ranks: int) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher of the ranks, in a session of its own: Ctrl-C reaches this process alone."""
    command = [sys.executable, *_LAUNCHER, "--nproc-per-node", str(ranks)]
    command += [] if has_other_nodes(os.environ) else ["--standalone"]
    command += [*_PROGRAM, "--job", str(job_file), "--events", str(folder / "events.jsonl")]
    command += ["--control", str(folder / "control"), "--supervisor", current_process_token()]
    log = folder / "output.log"
    with writing(log), log.open("wb") as output:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ,
            start_new_session=True,
        )
    try:
        yield launcher
    finally:
        launcher.kill()
        launcher.wait()


def _ended(status: int, folder: Path) -> TrainerError:
    """Of ranks without an outcome, or whose outcome the launcher of another node has to write."""
    if (first := read_failure(folder)) is not None:
        return RanksFailedError(first.failure)
    return TrainerError(
        f"the training processes ended without an outcome (status {status}); what they printed is "
        f"in {folder / 'output.log'}"
    )
