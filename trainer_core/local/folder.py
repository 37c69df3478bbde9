"""The output folder of a local run: one run at a time, and which checkpoint it goes on from."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from trainer_core.checkpoint.folders import (
    committed_checkpoints,
    is_whole,
    mend_checkpoints,
    read_manifest,
    restore_replaced,
)
from trainer_core.checkpoint.layout import MANIFEST_NAME, ResultManifest
from trainer_core.config.plan.frozen import Frozen
from trainer_core.errors import Category, CheckpointError, TrainerError
from trainer_core.paths import places_of

_LOCK: Final = ".lock"
CHECKPOINTS: Final = "checkpoints"
RESULT: Final = "result"
COURSE: Final = "course.json"
LATEST: Final = "latest"


class OutputInUseError(TrainerError):
    """Another run writes there."""

    code = "output_in_use"
    category: Category = "user"


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Hold the folder for this process; raises OutputInUseError naming the one that holds it.

    The kernel lets go when the process ends, however it ends.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise OutputInUseError(
                f"process {pid} trains into {output_dir} right now: wait for it, or give this run "
                "another --output"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def mend(output_dir: Path) -> None:
    """Give what a killed run left its names back; for who holds the folder."""
    mend_checkpoints(output_dir / CHECKPOINTS)
    restore_replaced(output_dir / RESULT)


def find_checkpoint(wish: str, output_dir: Path, folders: Sequence[Path]) -> Path | None:
    """The checkpoint that a run goes on from; None: it starts afresh.

    Args:
        wish: ``latest``, empty, or a checkpoint's folder (also by name, within ``output_dir``).
        output_dir: of the run.
        folders: what a relative path is tried from.

    Raises:
        CheckpointError: ``wish`` names no whole checkpoint.
    """
    if not wish:
        return None
    if wish == LATEST:
        return next(reversed(committed_checkpoints(output_dir / CHECKPOINTS)), None)
    tried = places_of(wish, (output_dir / CHECKPOINTS, *folders))
    found = next((place for place in tried if place.is_dir()), None)
    if found is None:
        places = ", ".join(str(place) for place in tried)
        raise CheckpointError(
            f"resume_from_checkpoint names {wish}, which is no folder in any of: {places}"
        )
    read_manifest(found)
    if not is_whole(found):
        raise CheckpointError(
            f"{found} is no whole checkpoint: a file that its {MANIFEST_NAME} names is missing or "
            "has another size"
        )
    return found


def lies_in(output_dir: Path, checkpoint: Path) -> bool:
    """Whether it is one of the folder's own checkpoints, by whatever path it was named."""
    return checkpoint.resolve().parent == (output_dir / CHECKPOINTS).resolve()


def set_aside(output_dir: Path, *, after_step: int) -> Path | None:
    """Move what another course of the run left out of the way: later checkpoints, a later result.

    Without this ``latest`` would later find the newest step, not the newest run. What is no whole
    checkpoint stays where it is and counts for nothing. Returns the folder where they are now, or
    None where there was nothing.
    """
    standing = committed_checkpoints(output_dir / CHECKPOINTS)
    later = [path for path in standing if read_manifest(path).step > after_step]
    result = output_dir / RESULT
    if _step_of_result(result) > (0 if later else after_step):
        later.append(result)
    if not later:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = output_dir / f"set-aside-{stamp}"
    aside.mkdir()
    for path in later:
        path.rename(aside / path.name)
    return aside


def _step_of_result(result: Path) -> int:
    """0 for what is no result."""
    try:
        return ResultManifest.model_validate_json((result / MANIFEST_NAME).read_bytes()).step
    except (OSError, ValidationError):
        return 0


class Course(Frozen):
    """What one wish but ``latest`` began in an output folder and has not finished.

    The same wish again goes on with it: or a run that is stopped and started by a supervisor would
    begin anew each time, and never end.
    """

    wish: str
    """What resume_from_checkpoint said."""
    digest: str
    """Of the plan's guarded identity and the data."""


def read_course(output_dir: Path) -> Course | None:
    """None where none is under way."""
    try:
        return Course.model_validate_json((output_dir / COURSE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_course(output_dir: Path, course: Course) -> None:
    """From now on the course is under way."""
    write_whole(output_dir / COURSE, course.model_dump_json() + "\n")


def forget_course(output_dir: Path) -> None:
    """From now on none is under way."""
    (output_dir / COURSE).unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Put a file in place at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
