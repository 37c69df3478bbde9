"""The training process: started in a session of its own, followed by its event file.

It has no access to runs, tenants, tokens or stores. Its standard output goes to a log file.
``trainer_core.process`` defines the files through which the two processes communicate.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from services.processes.child import ChildProcess, log_tail
from services.processes.environment import environment_for_child
from trainer_core.process.control import ControlRequest, write_control
from trainer_core.process.events import EventReader
from trainer_core.process.job import Job, write_job
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

OUTPUT_NAME: Final = "output.log"
"""In the attempt's folder: what the process prints. It never waits for a reader."""


class Child:
    """One running training process."""

    def __init__(
        self, command: Sequence[str], job: Job, folder: Path, env: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            command: the program before ``train``, such as ``python -m trainer_core``.
            job: written to its job file.
            folder: an existing scratch folder of this attempt.
            env: the supervisor's environment; the child gets the allow-listed part of it.

        Raises OSError where the files cannot be written or the program cannot be started.
        """
        self.events = EventReader(folder / "events.jsonl", on_unreadable=_log_unreadable)
        self._control = folder / "control"
        self._output = folder / OUTPUT_NAME
        self._requested = ControlRequest.RUN
        job_file = folder / "job.json"
        write_job(job_file, job)
        arguments = ["train", "--job", str(job_file), "--events", str(folder / "events.jsonl")]
        arguments += ["--control", str(self._control), "--supervisor", current_process_token()]
        self._process = ChildProcess(
            [*command, *arguments],
            env=environment_for_child(env),
            folder=folder,
            log_file=self._output,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, request: ControlRequest) -> None:
        """Write the control file, unless this was already requested."""
        if request is self._requested:
            return
        log.info("child_requested", request=request.value)
        write_control(self._control, request)
        self._requested = request

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    def kill(self) -> None:
        """SIGKILL to the process and all its descendants, also after the process has ended."""
        self._process.kill()

    def how_it_died(self) -> str:
        """``SIGKILL`` or ``exit status 1``; for a child that reported no outcome."""
        return self._process.exit_in_words()

    def output_tail(self) -> str:
        """The end of its output, for the operator's log."""
        return log_tail(self._output)


def training_command(program: Sequence[str], world_size: int) -> Sequence[str]:
    """The command before ``train``: several ranks are started by a launcher."""
    if world_size == 1:
        return program
    launcher = (sys.executable, "-m", "trainer_core", "launch", "--standalone")
    return (*launcher, "--nproc-per-node", str(world_size), "--no-python", *program)


def _log_unreadable(line: bytes) -> None:
    log.warning("event_unreadable", size_bytes=len(line))
