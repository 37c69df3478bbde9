"""Checkpoint folders as they lie on disk: which are whole, which go. Imports no torch."""

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
    folder_name,
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
    """The manifest alone; raises CheckpointError."""
    try:
        body = (folder / MANIFEST_NAME).read_bytes()
        return CheckpointManifest.model_validate_json(body)
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder.name} has no readable manifest: {error}") from error


def committed_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """Folders that hold what their manifests say, by sizes, the oldest first.

    Empty where there is no such folder at all. Digests are checked when one is read.
    """
    if not checkpoints_dir.is_dir():
        return []
    steps = {path: _step_of(path) for path in checkpoints_dir.iterdir()}
    whole = [(step, path) for path, step in steps.items() if step is not None]
    return [path for _, path in sorted(whole)]


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint or a result holds what its manifest says, by sizes."""
    try:
        files = _MANIFEST.validate_json((folder / MANIFEST_NAME).read_bytes()).files
        return all((folder / name).stat().st_size == f.size_bytes for name, f in files.items())
    except (OSError, ValidationError):
        return False


def restore_replaced(final: Path) -> None:
    """Give a folder its name back that a killed writer moved aside and never replaced.

    Only for whoever may write there: a living writer is between the two for a moment.
    """
    old = final.with_name(f".{final.name}.old")
    if os.path.lexists(final):
        shutil.rmtree(old, ignore_errors=True)
    elif is_whole(old):
        old.rename(final)


def mend_checkpoints(checkpoints_dir: Path) -> None:
    """Sweep up after a killed writer, whose last whole copy of a step is kept; see above."""
    if not checkpoints_dir.is_dir():
        return
    for path in sorted(checkpoints_dir.iterdir()):
        if leftover := _LEFTOVER.fullmatch(path.name):
            restore_replaced(path.with_name(leftover[1]))
            shutil.rmtree(path, ignore_errors=True)


def keep_newest(checkpoints_dir: Path, count: int) -> None:
    """Delete all committed checkpoints but the newest ``count``, and what a killed writer left.

    Anything else in the folder is not ours to delete, and counts for nothing.
    """
    mend_checkpoints(checkpoints_dir)
    for path in committed_checkpoints(checkpoints_dir)[:-count]:
        # Hidden first: a kill in the middle must not leave a torn folder under a checkpoint's name.
        gone = path.rename(path.with_name(f".{path.name}.gone"))
        shutil.rmtree(gone)


def _step_of(folder: Path) -> int | None:
    """None for what is not a whole checkpoint of ours; a link leads to somebody else's."""
    if folder.is_symlink() or not is_whole(folder):
        return None
    try:
        step = read_manifest(folder).step
    except CheckpointError:
        return None
    return step if folder.name == folder_name(step) else None
