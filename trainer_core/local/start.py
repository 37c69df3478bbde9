"""Decide how a local run starts: resumed, anew, or not at all. Reads and writes no files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, Field

from trainer_core.config.plan.frozen import Frozen

LATEST: Final = "latest"
"""The value of ``resume_from_checkpoint`` that asks for the newest checkpoint."""

STARTED_RUN_NAME: Final = "course.json"
"""The file in the output folder that holds a ``StartedRun``."""
_NAMED: Final = 3
"""At most this many damaged checkpoints are named in an error."""


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


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not start; change no files and report the reason."""

    reason: str
    is_damage: bool = False
    """Whether the reason is that a checkpoint is damaged, and none can be used in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damaged:
    """A checkpoint in the output folder that cannot be used."""

    path: Path
    why: str
    """Names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """The checkpoints that a run may start from."""

    own: tuple[Path, ...] = ()
    """The whole ones in the output folder, the oldest first."""
    damaged: tuple[Damaged, ...] = ()
    """The others there."""
    requested: Path | None = None
    """The one that ``resume_from_checkpoint`` names; None if it names none."""
    problem: Refuse | None = None
    """Why the requested one cannot be used; None if it can."""

    @property
    def newest(self) -> Path | None:
        """The newest whole one in the output folder; None if there is none."""
        return self.own[-1] if self.own else None

    def without_newest(self, why: str) -> "Checkpoints":
        """The same, where the newest one turned out to be damaged."""
        found = Damaged(path=self.own[-1], why=why)
        return replace(self, own=self.own[:-1], damaged=(*self.damaged, found))


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue the run of the output folder from its newest whole checkpoint.

    From step 0 if it has no checkpoint at all.
    """

    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class StartAnew:
    """Start another run from a checkpoint, or from step 0; later checkpoints are moved aside."""

    checkpoint: Path | None


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
    is_unfinished = started == StartedRun(request=request, digest=digest)
    if request == LATEST or is_unfinished:
        if checkpoints.newest is None and checkpoints.damaged:
            return Refuse(_none_is_whole(request, checkpoints), is_damage=True)
        if request == LATEST or checkpoints.newest is not None:
            return Resume(checkpoints.newest)
    if checkpoints.problem is not None:
        return checkpoints.problem
    return StartAnew(checkpoints.requested)


def refusal(request: str, checkpoints: Checkpoints, started: StartedRun | None) -> Refuse | None:
    """The refusal of ``decide_start`` that does not depend on the digest; None if there is none.

    It needs no data, so it can be reported before the data is read.
    """
    digests = {"", started.digest if started else ""}
    starts = {decide_start(request, checkpoints, started, digest) for digest in digests}
    only = starts.pop()
    return only if isinstance(only, Refuse) and not starts else None


def _none_is_whole(request: str, checkpoints: Checkpoints) -> str:
    """Lists the newest ones, and says the ways on."""
    newest_first = [each.why for each in reversed(checkpoints.damaged)]
    more = f"; and {len(newest_first) - _NAMED} more" if len(newest_first) > _NAMED else ""
    anew = (
        "start at step 0 with --set resume_from_checkpoint="
        if request == LATEST
        else f"delete {STARTED_RUN_NAME} in the output folder to start anew"
    )
    return (
        f"none of the checkpoints in {checkpoints.damaged[0].path.parent} is whole: "
        f"{'; '.join(newest_first[:_NAMED])}{more}. Put one back from a copy, or {anew}"
    )
