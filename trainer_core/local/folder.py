"""The output folder of a local run: its lock, its checkpoints, and files moved aside."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from trainer_core.checkpoint.folders import (
    check_sizes,
    committed_checkpoints,
    read_manifest,
    repair_checkpoints,
    restore_replaced,
    stored_checkpoints,
)
from trainer_core.checkpoint.layout import MANIFEST_NAME, CheckpointManifest, ResultManifest
from trainer_core.checkpoint.opening import CHECKPOINTS
from trainer_core.data.orders import data_digest_of
from trainer_core.disk import writing
from trainer_core.errors import Category, CheckpointCorruptError, CheckpointError, TrainerError
from trainer_core.local.start import (
    LATEST,
    STARTED_RUN_NAME,
    Checkpoints,
    Damaged,
    Refuse,
    StartedRun,
)
from trainer_core.paths import places_of
from trainer_core.process.job import BadJobError, Job, read_job
from trainer_core.whole_file import replace_text

JOB_NAME: Final = "job.json"
_LOCK_NAME: Final = ".lock"
_PID_BYTES: Final = 32
RESULT: Final = "result"


class OutputInUseError(TrainerError):
    """Another run uses the output folder."""

    code = "output_in_use"
    category: Category = Category.USER


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Lock the folder for this process; creates it if needed.

    The kernel releases the lock when the process ends, even if it is killed. Raises
    OutputInUseError, which names the process that has the lock, and DiskError.
    """
    with writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(output_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(lock, _PID_BYTES, 0).decode(errors="replace").strip() or "unknown"
            raise OutputInUseError(
                f"process {pid} is training in {output_dir}: wait for it, or give this run another "
                "--output"
            ) from error
        with writing(output_dir):
            os.truncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def restore_interrupted(output_dir: Path) -> None:
    """Restore files that a killed run was replacing; the caller has locked the folder."""
    repair_checkpoints(output_dir / CHECKPOINTS)
    restore_replaced(output_dir / RESULT)


def find_checkpoints(request: str, output_dir: Path, folders: Sequence[Path]) -> Checkpoints:
    """The checkpoints of the output folder, and the requested one; files are compared by size.

    Args:
        request: ``latest``, empty, or a checkpoint: its folder, or its name in ``output_dir``.
        output_dir: the run's output folder.
        folders: a relative path is looked up in each of these.
    """
    stored = stored_checkpoints(output_dir / CHECKPOINTS)
    damaged = tuple(Damaged(path=path, why=why) for path, why in stored.damaged)
    found = Checkpoints(own=stored.whole, damaged=damaged)
    if request in ("", LATEST):
        return found
    try:
        requested = _named_checkpoint(request, (output_dir / CHECKPOINTS, *folders))
    except CheckpointError as error:
        is_damage = isinstance(error, CheckpointCorruptError)
        return replace(found, problem=Refuse(error.message, is_damage=is_damage))
    return replace(found, requested=requested)


def _named_checkpoint(name: str, folders: Sequence[Path]) -> Path:
    """Raises CheckpointError if there is no such folder, or if it is damaged."""
    tried = places_of(name, folders)
    found = next((place for place in tried if place.is_dir()), None)
    if found is None:
        places = ", ".join(str(place) for place in tried)
        raise CheckpointError(
            f"resume_from_checkpoint names {name}, which is not a folder in any of: {places}"
        )
    try:
        check_sizes(found)
    except CheckpointCorruptError as error:
        raise CheckpointCorruptError(f"{found} is damaged: {error.message}") from error
    return found


def job_of(checkpoint: Path) -> Job | None:
    """``job_beside``; raises CheckpointError as ``read_manifest``."""
    return job_beside(checkpoint, read_manifest(checkpoint))


def job_beside(checkpoint: Path, manifest: CheckpointManifest) -> Job | None:
    """The job that wrote a checkpoint; None where it is not beside it, or that of another run."""
    for folder in checkpoint.resolve().parents[:2]:
        with contextlib.suppress(BadJobError):
            job = read_job(folder / JOB_NAME)
            if data_digest_of(job.plan.identity, job.index) == manifest.data_digest:
                return job
    return None


def is_own_checkpoint(output_dir: Path, checkpoint: Path) -> bool:
    """Whether the checkpoint is in the output folder; symbolic links are resolved."""
    return checkpoint.resolve().parent == (output_dir / CHECKPOINTS).resolve()


def set_aside(output_dir: Path, *, after_step: int) -> Path | None:
    """Move an earlier run's later checkpoints, and its later result, to a folder of their own.

    Otherwise ``latest`` would find the highest step instead of the newest run. Damaged checkpoints
    are not moved. Returns the new folder, or None if there was nothing to move.
    """
    stored = committed_checkpoints(output_dir / CHECKPOINTS)
    later = [path for path in stored if read_manifest(path).step > after_step]
    result = output_dir / RESULT
    if _step_of_result(result) > (0 if later else after_step):
        later.append(result)
    return move_aside(output_dir, later) if later else None


def move_aside(output_dir: Path, folders: Sequence[Path]) -> Path:
    """Move folders out of the way of a run, under their names; returns the folder they are in.

    The job that wrote them is copied to it: it says which data and base model they belong to.
    Raises DiskError.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = output_dir / f"set-aside-{stamp}"
    with writing(aside):
        aside.mkdir()
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(output_dir / JOB_NAME, aside / JOB_NAME)
        for path in folders:
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
    """Write a file that appears complete or not at all. Raises DiskError."""
    with writing(path):
        replace_text(path, text)
