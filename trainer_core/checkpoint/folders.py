"""Checkpoint folders on disk: which are complete, and which are deleted. Imports no torch."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from trainer_core.checkpoint.layout import (
    MANIFEST_NAME,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
    checkpoint_name,
)
from trainer_core.errors import CheckpointError

_LEFTOVER: Final = re.compile(r"\.(step-\d{8,})\.(draft|old|gone)")
_MANIFEST: Final = TypeAdapter[CheckpointManifest | ResultManifest](
    CheckpointManifest | ResultManifest
)


def facts_of(path: Path) -> FileFacts:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(size_bytes=path.stat().st_size, sha256=digest)


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint. Raises CheckpointError where it is missing or not valid."""
    try:
        body = (folder / MANIFEST_NAME).read_bytes()
        return CheckpointManifest.model_validate_json(body)
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder.name} has no readable manifest: {error}") from error


def committed_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """The complete checkpoints in a folder, the oldest first; none where the folder does not exist.

    Only the sizes of files are compared with the manifest. ``check_checkpoint`` compares digests.
    """
    if not checkpoints_dir.is_dir():
        return []
    steps = {path: _step_of(path) for path in checkpoints_dir.iterdir()}
    complete = [(step, path) for path, step in steps.items() if step is not None]
    return [path for _, path in sorted(complete)]


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint or a result has all files of its manifest, in the right sizes."""
    try:
        files = _MANIFEST.validate_json((folder / MANIFEST_NAME).read_bytes()).files
        return all((folder / name).stat().st_size == f.size_bytes for name, f in files.items())
    except (OSError, ValidationError):
        return False


def restore_replaced(final: Path) -> None:
    """Repair a folder whose writer was killed between its two renames.

    To replace a folder, the writer first renames the old one and then the new one. If only the
    first rename happened, this undoes it. Call it only from the process that writes there: another
    process could meet a live writer between its renames.
    """
    old = final.with_name(f".{final.name}.old")
    if os.path.lexists(final):
        shutil.rmtree(old, ignore_errors=True)
    elif is_complete(old):
        old.rename(final)


def repair_checkpoints(checkpoints_dir: Path) -> None:
    """``restore_replaced`` for each checkpoint, then delete other leftovers of killed writers."""
    if not checkpoints_dir.is_dir():
        return
    for path in sorted(checkpoints_dir.iterdir()):
        if leftover := _LEFTOVER.fullmatch(path.name):
            restore_replaced(path.with_name(leftover[1]))
            shutil.rmtree(path, ignore_errors=True)


def keep_newest(checkpoints_dir: Path, count: int) -> None:
    """Delete all complete checkpoints except the newest ``count``, and leftovers of killed writers.

    Other files and folders are neither counted nor deleted.
    """
    repair_checkpoints(checkpoints_dir)
    for path in committed_checkpoints(checkpoints_dir)[:-count]:
        # Renamed first, so that a kill leaves no half-deleted folder under a checkpoint's name.
        gone = path.rename(path.with_name(f".{path.name}.gone"))
        shutil.rmtree(gone)


def _step_of(folder: Path) -> int | None:
    """None for anything but a complete checkpoint. Links are not followed."""
    if folder.is_symlink() or not is_complete(folder):
        return None
    try:
        step = read_manifest(folder).step
    except CheckpointError:
        return None
    return step if folder.name == checkpoint_name(step) else None
