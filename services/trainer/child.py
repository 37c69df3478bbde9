"""The training process: started in a session of its own, followed by its event file.

It knows no run, tenant, token or store. Standard output belongs to libraries and goes to a log
file. See ``trainer_core.process`` for what the two processes write to each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from services.processes.child import ChildProcess, log_tail
from services.processes.environment import environment_for_child
from trainer_core.process.control import ControlRequest, write_control
from trainer_core.process.events import EventReader
from trainer_core.process.job import Job, write_job
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)


class Child:
    """One running training process."""

    def __init__(
        self, command: Sequence[str], job: Job, folder: Path, env: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            command: the program before ``train``, such as ``python -m trainer_core``.
            job: what it is to do; written to its job file.
            folder: an existing scratch folder of this attempt.
            env: the supervisor's environment; only what is on the allow-list is handed down.

        Raises OSError where the files cannot be written or the program cannot be started.
        """
        self.events = EventReader(folder / "events.jsonl", on_unreadable=_log_unreadable)
        self._control = folder / "control"
        self._output = folder / "output.log"
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
        """Write the control file, if that is a new request."""
        if request is self._requested:
            return
        log.info("child_requested", request=request.value)
        write_control(self._control, request)
        self._requested = request

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    def kill(self) -> None:
        """SIGKILL to it and all that it started, also where it has ended itself."""
        self._process.kill()

    def how_it_died(self) -> str:
        """``SIGKILL``, ``exit status 1``: for a child that left no outcome."""
        return self._process.exit_in_words()

    def output_tail(self) -> str:
        """The end of what it printed, for the operator's log."""
        return log_tail(self._output)


def training_command(program: Sequence[str], world_size: int) -> Sequence[str]:
    """The command before ``train``: several ranks are started by torch's launcher."""
    if world_size == 1:
        return program
    interpreter, *rest = program
    launcher = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "0")
    return (interpreter, *launcher, "--nproc-per-node", str(world_size), *rest)


def _log_unreadable(line: bytes) -> None:
    log.warning("event_unreadable", size_bytes=len(line))
