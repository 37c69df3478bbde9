"""What the ranks of a run and their launcher tell each other on disk: why the first rank failed.

The launcher of each node names the folder of the events in the environment of its ranks. A rank
that fails writes ``failure.json`` there before it ends; for one that was killed its launcher does.
Only the first failure counts: where one rank ends, the others fail for want of it. No torch.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_as_json, failure_from_json, failure_of
from trainer_core.process.stat import ProcessId
from trainer_core.process.supervision import parse_supervisor

LAUNCHER: Final = "REVERIE_LAUNCHER"
"""Environment variable of a rank: its launcher, as ``PID:START_TICKS``."""
FOLDER: Final = "REVERIE_RANKS_DIR"
"""Environment variable of a rank: the folder of ``failure.json`` and of the ranks' logs."""
_FAILURE_NAME: Final = "failure.json"
_CAUSE_WITHIN_S: Final = 3.0
"""The launcher notices a killed rank at once; on another node it may take this long."""
_LOOK_EVERY_S: Final = 0.05
_LOST: Final = ("Connection closed by peer", "Connection reset by peer", "gloo/", "NCCL")
"""What torch's messages name where another rank has ended, or does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """This process as one of the ranks that a launcher has started."""

    rank: int
    launcher: ProcessId
    folder: Path
    """Of ``failure.json``."""

    @property
    def log_file(self) -> Path:
        return log_file_of(self.folder, self.rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFailure:
    """The first failure of a run of several ranks."""

    rank: int | None
    """None: the launcher itself."""
    failure: Failure


def launched_in(env: Mapping[str, str]) -> Launched | None:
    """What a launcher has put into the environment of this rank; None without one."""
    if LAUNCHER not in env:
        return None
    return Launched(
        rank=int(env["RANK"]),
        launcher=parse_supervisor(env[LAUNCHER]),
        folder=Path(env[FOLDER]),
    )


def log_file_of(folder: Path, rank: int) -> Path:
    """The log of a rank; rank 0 has none, since it prints where the launcher prints."""
    return folder / f"rank-{rank:05d}.log"


def report_failure(launched: Launched, error: BaseException) -> None:
    """Write why this rank fails, unless another one has failed before.

    Where it fails because another rank does not answer, that one, or its launcher, gets the time
    to write the cause first. Never raises: the error itself is more important.
    """
    is_lost = _is_lost(error)
    if is_lost:
        end_s = time.monotonic() + _CAUSE_WITHIN_S
        while read_failure(launched.folder) is None and time.monotonic() < end_s:
            time.sleep(_LOOK_EVERY_S)
    write_failure(launched.folder, launched.rank, _lost_rank() if is_lost else failure_of(error))


def write_failure(folder: Path, rank: int | None, failure: Failure) -> None:
    """Write the failure of a rank, or None for the launcher, unless there is one. Never raises."""
    if rank is not None:
        message = f"rank {rank}: {failure.message}"
        failure = Failure(
            code=failure.code,
            category=failure.category,
            message=message,
            retryable=failure.retryable,
        )
    try:
        with (folder / _FAILURE_NAME).open("x", encoding="utf-8") as file:
            file.write(json.dumps({"rank": rank, **failure_as_json(failure)}) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        sys.stderr.write(f"{folder / _FAILURE_NAME} cannot be written: {error}\n")


def read_failure(folder: Path) -> RankFailure | None:
    """The first failure; None while there is none, or it is being written."""
    try:
        body = json.loads((folder / _FAILURE_NAME).read_bytes())
        return RankFailure(rank=body["rank"], failure=failure_from_json(body))
    except (OSError, ValueError, KeyError):
        return None


def forget_failure(folder: Path) -> None:
    """Remove the failure of an earlier start; raises OSError."""
    (folder / _FAILURE_NAME).unlink(missing_ok=True)


def died(how: str) -> Failure:
    """The failure of a rank that ended without a word. ``how``: such as ``SIGKILL``."""
    message = f"The training process ended without an outcome ({how})."
    return Failure(code="child_died", category=Category.INFRA, message=message, retryable=True)


def _lost_rank() -> Failure:
    message = "It lost another rank, or its node: the connection ended, or gave no answer in time."
    return Failure(code="rank_lost", category=Category.INFRA, message=message, retryable=True)


def _is_lost(error: BaseException) -> bool:
    """Whether the error is that of an exchange with other ranks."""
    distributed = sys.modules.get("torch.distributed")
    kind = getattr(distributed, "DistError", None)
    if isinstance(kind, type) and isinstance(error, kind):
        return True
    text = str(error)
    if not isinstance(error, RuntimeError) or "out of memory" in text:
        return False
    return any(name in text for name in _LOST)
