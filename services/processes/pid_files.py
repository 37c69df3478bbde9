"""A file for each running child, by which the next start ends children of a killed supervisor."""

import json
import signal
from pathlib import Path

from services.processes.errors import ChildError
from services.processes.tree import descendants, end_all, is_alive, send_signal
from trainer_core.process.stat import ProcessId, identify


def write_pid_file(file: Path, pid: int) -> None:
    """Write the file atomically; nothing is written for a process that has ended."""
    if (process := identify(pid)) is not None:
        draft = file.with_name(f".{file.name}.new")
        draft.write_text(json.dumps(process._asdict()))
        draft.replace(file)


def end_leftovers(folder: Path, *, grace_s: float) -> list[str]:
    """End the processes whose files are left in ``folder``, with their descendants.

    Args:
        folder: holds ``NAME.json`` files; no running supervisor may use it.
        grace_s: time for an orderly exit before the kill.

    Returns the names of those that were still running. Raises ChildError for one that survives.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        process = ProcessId(**json.loads(file.read_text()))
        if is_alive(process):
            found.append(file.stem)
            below = descendants([process.pid])
            # SIGINT is PostgreSQL's fast shutdown. What ignores it is killed after grace_s.
            send_signal(process, signal.SIGINT)
            end_all([process, *below], grace_s=grace_s)
            if is_alive(process):
                raise ChildError(f"{file.stem} (pid {process.pid}) of an earlier start survives")
        file.unlink()
    return found
