"""The output folder of a local run: its lock, its checkpoints, and files moved aside."""

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
    is_complete,
    read_manifest,
    repair_checkpoints,
    restore_replaced,
)
from trainer_core.checkpoint.layout import MANIFEST_NAME, ResultManifest
from trainer_core.errors import Category, CheckpointError, TrainerError
from trainer_core.local.start import LATEST, Checkpoints, StartedRun
from trainer_core.paths import places_of

STARTED_RUN_NAME: Final = "course.json"
_LOCK_NAME: Final = ".lock"
_CHECKPOINTS: Final = "checkpoints"
_RESULT: Final = "result"


class OutputInUseError(TrainerError):
    """Another run uses the output folder."""

    code = "output_in_use"
    category: Category = Category.USER


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Lock the folder for this process; creates it if needed.

    The kernel releases the lock when the process ends, even if it is killed. Raises
    OutputInUseError, which names the process that has the lock.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / _LOCK_NAME).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise OutputInUseError(
                f"process {pid} is training in {output_dir}: wait for it, or give this run another "
                "--output"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def restore_interrupted(output_dir: Path) -> None:
    """Restore files that a killed run was replacing; the caller has locked the folder."""
    repair_checkpoints(output_dir / _CHECKPOINTS)
    restore_replaced(output_dir / _RESULT)


def find_checkpoints(request: str, output_dir: Path, folders: Sequence[Path]) -> Checkpoints:
    """The newest checkpoint of the output folder, and the requested one.

    Args:
        request: ``latest``, empty, or a checkpoint: its folder, or its name in ``output_dir``.
        output_dir: the run's output folder.
        folders: a relative path is looked up in each of these.
    """
    newest = next(reversed(committed_checkpoints(output_dir / _CHECKPOINTS)), None)
    if request in ("", LATEST):
        return Checkpoints(newest=newest)
    try:
        requested = _named_checkpoint(request, (output_dir / _CHECKPOINTS, *folders))
    except CheckpointError as error:
        return Checkpoints(newest=newest, problem=error.message)
    return Checkpoints(newest=newest, requested=requested)


def _named_checkpoint(name: str, folders: Sequence[Path]) -> Path:
    """Raises CheckpointError if there is no such folder, or if it is incomplete."""
    tried = places_of(name, folders)
    found = next((place for place in tried if place.is_dir()), None)
    if found is None:
        places = ", ".join(str(place) for place in tried)
        raise CheckpointError(
            f"resume_from_checkpoint names {name}, which is not a folder in any of: {places}"
        )
    read_manifest(found)
    if not is_complete(found):
        raise CheckpointError(
            f"{found} is not a complete checkpoint: a file in its {MANIFEST_NAME} is missing or "
            "has another size"
        )
    return found


def is_own_checkpoint(output_dir: Path, checkpoint: Path) -> bool:
    """Whether the checkpoint is in the output folder; symbolic links are resolved."""
    return checkpoint.resolve().parent == (output_dir / _CHECKPOINTS).resolve()


def set_aside(output_dir: Path, *, after_step: int) -> Path | None:
    """Move an earlier run's later checkpoints, and its later result, to a folder of their own.

    Otherwise ``latest`` would find the highest step instead of the newest run. Incomplete
    checkpoints are not moved. Returns the new folder, or None if there was nothing to move.
    """
    stored = committed_checkpoints(output_dir / _CHECKPOINTS)
    later = [path for path in stored if read_manifest(path).step > after_step]
    result = output_dir / _RESULT
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
    """The step of a result; 0 if the folder is not a result."""
    try:
        return ResultManifest.model_validate_json((result / MANIFEST_NAME).read_bytes()).step
    except (OSError, ValidationError):
        return 0


def read_started_run(output_dir: Path) -> StartedRun | None:
    """The unfinished run of the folder; None if there is none."""
    try:
        return StartedRun.model_validate_json((output_dir / STARTED_RUN_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write_started_run(output_dir: Path, started: StartedRun) -> None:
    """Record that this run was started and is not finished."""
    replace_file(output_dir / STARTED_RUN_NAME, started.model_dump_json() + "\n")


def delete_started_run(output_dir: Path) -> None:
    """Record that no run is unfinished."""
    (output_dir / STARTED_RUN_NAME).unlink(missing_ok=True)


def replace_file(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
