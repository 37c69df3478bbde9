"""Decide how a local run starts: resumed, anew, or not at all. Reads and writes no files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, Field

from trainer_core.config.plan.frozen import Frozen

LATEST: Final = "latest"
"""The value of ``resume_from_checkpoint`` that asks for the newest checkpoint."""


class StartedRun(Frozen):
    """A run that was started anew in an output folder and has no result yet.

    The same command resumes it. Without this record, a run that a supervisor stops and restarts
    would start anew each time and never finish. ``latest`` needs no record: it always resumes.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    request: str = Field(validation_alias="wish", serialization_alias="wish")
    """The value of ``resume_from_checkpoint``. The key in the file is ``wish``."""
    digest: str
    """Digest of the plan's guarded identity and the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """The checkpoints that a run may start from."""

    newest: Path | None = None
    """The newest one in the output folder; None if there is none."""
    requested: Path | None = None
    """The one that ``resume_from_checkpoint`` names; None if it names none."""
    problem: str | None = None
    """Why the requested one cannot be used; None if it can."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue the run of the output folder from its newest checkpoint; from step 0 without one."""

    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class StartAnew:
    """Start another run from a checkpoint, or from step 0; later checkpoints are moved aside."""

    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not start; change no files and report the reason."""

    reason: str


Start = Resume | StartAnew | Refuse


def decide_start(
    request: str, checkpoints: Checkpoints, started: StartedRun | None, digest: str
) -> Start:
    """Decide how the run starts.

    Args:
        request: the value of ``resume_from_checkpoint``: ``latest``, empty (from step 0) or the
            folder of a checkpoint.
        checkpoints: the existing checkpoints.
        started: the unfinished run of the output folder.
        digest: this run's digest, compared with that of ``started``.
    """
    if request == LATEST:
        return Resume(checkpoints.newest)
    is_unfinished = started == StartedRun(request=request, digest=digest)
    if is_unfinished and checkpoints.newest is not None:
        return Resume(checkpoints.newest)
    if checkpoints.problem is not None:
        return Refuse(checkpoints.problem)
    return StartAnew(checkpoints.requested)


def refusal(request: str, checkpoints: Checkpoints, started: StartedRun | None) -> Refuse | None:
    """The refusal of ``decide_start`` that does not depend on the digest; None if there is none.

    It needs no data, so it can be reported before the data is read.
    """
    start = decide_start(request, checkpoints, started, started.digest if started else "")
    return start if isinstance(start, Refuse) else None
