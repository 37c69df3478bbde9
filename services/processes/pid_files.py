"""A file for each running child, so that the next start ends what a killed supervisor left."""

import json
import signal
from pathlib import Path

from services.processes.errors import ChildError
from services.processes.tree import descendants, end_all, is_alive, send_signal
from trainer_core.process.stat import ProcessId, identify


def write_pid_file(file: Path, pid: int) -> None:
    """Replace the file in one step; nothing is written of a process that has ended."""
    if (process := identify(pid)) is not None:
        draft = file.with_name(f".{file.name}.new")
        draft.write_text(json.dumps(process._asdict()))
        draft.replace(file)


def end_leftovers(folder: Path, *, grace_s: float) -> list[str]:
    """End the processes whose files are left in ``folder``, with all below them.

    Args:
        folder: of ``NAME.json``; no supervisor may be using it now.
        grace_s: how long a process may take to end in order.

    Returns the names of those that were still running. Raises ChildError for one that survives.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        process = ProcessId(**json.loads(file.read_text()))
        if is_alive(process):
            found.append(file.stem)
            below = descendants([process.pid])
            # SIGINT is PostgreSQL's fast shutdown. Whoever ignores it is killed after the grace.
            send_signal(process, signal.SIGINT)
            end_all([process, *below], grace_s=grace_s)
            if is_alive(process):
                raise ChildError(f"{file.stem} (pid {process.pid}) of an earlier start survives")
        file.unlink()
    return found
