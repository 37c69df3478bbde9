"""The training process: started in a session of its own, followed by its event file.

It knows no run, tenant, token or store. Standard output belongs to libraries and goes to a log
file. See ``trainer_core.process`` for what the two processes write to each other.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from services.processes.children import environment_for_child, kill_tree
from trainer_core.process.control import ControlRequest, write_control
from trainer_core.process.events import EventReader
from trainer_core.process.job import Job, write_job
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

_OUTPUT_TAIL_BYTES: Final = 2000


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
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment_for_child(env),
                start_new_session=True,
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
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to it and everything below it; returns when it is gone. Harmless when it is."""
        if self._process.poll() is None:
            kill_tree(self._process.pid)
            self._process.wait()

    def how_it_died(self) -> str:
        """``SIGKILL``, ``exit status 1``: for a child that left no outcome."""
        status = self._process.returncode
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"

    def output_tail(self) -> str:
        """The end of what it printed, for the operator's log."""
        with self._output.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - _OUTPUT_TAIL_BYTES))
            return output.read().decode(errors="replace")


def training_command(program: Sequence[str], world_size: int) -> Sequence[str]:
    """The command before ``train``: several ranks are started by torch's launcher."""
    if world_size == 1:
        return program
    interpreter, *rest = program
    launcher = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "0")
    return (interpreter, *launcher, "--nproc-per-node", str(world_size), *rest)


def _log_unreadable(line: bytes) -> None:
    log.warning("event_unreadable", size_bytes=len(line))
