"""Named places where a test can make a process die, hang or raise.

``FAULT_AT="checkpoint.before_rename=kill"`` acts each time the process reaches that place,
``name@3=kill`` only the third time. With ``FAULT_ONCE=/path`` the fault happens once among all
processes that share the path: the first one creates the file. With ``FAULT_RANK=1`` it happens in
that rank only. The action ``fill`` fills the disk of the folder ``FAULT_FILL`` and goes on,
``stop`` sends SIGTERM to the process, and ``memory`` raises torch's OutOfMemoryError. ``FAULT_AT``
needs ``REVERIE_ENV=test``. Without it, a fault point only reads one environment variable.
"""

import contextlib
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Final

from trainer_core.errors import InjectedFaultError

ALL_FAULT_POINTS: Final[tuple[str, ...]] = (
    # the training process and the encoder
    "encode.before_write",
    "encode.before_rename",
    "encode.after_rename",
    "weights.before_manifest",
    "weights.before_rename",
    "train.loaded",
    "train.before_launch",
    "train.after_backward",
    "train.before_step",
    "train.after_step",
    "checkpoint.before_state",
    "checkpoint.in_state",
    "checkpoint.before_manifest",
    "checkpoint.before_rename",
    "checkpoint.between_renames",
    "checkpoint.after_rename",
    "checkpoint.before_event",
    "picture.before_sampling",
    "picture.before_file",
    "picture.before_event",
    "result.before_adapter",
    "result.before_manifest",
    "result.before_rename",
    "result.between_renames",
    "result.before_event",
    "train.before_finished",
    # the service
    "objects.probed",
    "request.stored",
    "sweep.closed",
    "index.taken",
    "verify.checked",
    "import.taken",
    "import.declared",
    "import.stored",
    "shard.before_manifest",
    "shard.uploaded",
    "offers.taken",
    "attempt.claimed",
    "attempt.child_started",
    "folder.before_manifest",
    "sample.stored",
    "sample.recorded",
    "checkpoint.uploaded",
    "checkpoint.committed",
    "result.uploaded",
    "result.committed",
    "deletion.claimed",
    "deletion.announced",
    "deletion.published_noted",
    "deletion.batch_noted",
    "deletion.objects_deleted",
    "deletion.shard_taken",
    "deletion.shard_emptied",
    "deletion.files_deleted",
    "deletion.rows_deleted",
    "deletion.reported",
    "webhook.sent",
    "restored.deletion",
    "restored.run",
    "restored.before_end",
)
"""Every name that ``fault_point`` accepts, in the order in which a process reaches them."""

_PAGE_BYTES: Final = 4096

_passes: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Die, hang or raise here if ``FAULT_AT`` names this place; otherwise do nothing.

    Raises:
        ValueError: the name is not in ``ALL_FAULT_POINTS``.
        PermissionError: ``FAULT_AT`` is set outside ``REVERIE_ENV=test``.
        InjectedFaultError: the action in ``FAULT_AT`` is ``raise``.
    """
    if name not in ALL_FAULT_POINTS:
        raise ValueError(f"{name} is not in ALL_FAULT_POINTS")
    fault = os.environ.get("FAULT_AT")
    if not fault:
        return
    if os.environ.get("REVERIE_ENV") != "test":
        raise PermissionError("FAULT_AT is for tests: it needs REVERIE_ENV=test")
    if os.environ.get("FAULT_RANK", own_rank := os.environ.get("RANK")) != own_rank:
        return
    _passes[name] += 1
    place, _, action = fault.partition("=")
    wanted_name, _, nth = place.partition("@")
    if wanted_name != name or (nth and int(nth) != _passes[name]) or not _first_of_all():
        return
    _act(name, action)


def _first_of_all() -> bool:
    marker = os.environ.get("FAULT_ONCE")
    if not marker:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(name: str, action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stall":
            threading.Event().wait()  # until a signal ends the process
        case "raise":
            raise InjectedFaultError(f"fault injected at {name}")
        case "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        case "memory":
            raise sys.modules["torch"].OutOfMemoryError(f"fault injected at {name}")
        case "fill":
            _fill(Path(os.environ["FAULT_FILL"]))
        case _:
            known = "kill, stall, raise, stop, memory or fill"
            raise ValueError(f"FAULT_AT: the action has to be {known}, not {action!r}")


def _fill(folder: Path) -> None:
    """Write a file until the last page of the disk is taken."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * _PAGE_BYTES)
