"""Checkpoint folders as they lie on disk: which are whole, which go. Imports no torch."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from trainer_core.checkpoint.layout import (
    MANIFEST_NAME,
    CheckpointManifest,
    FileFacts,
    folder_name,
)
from trainer_core.errors import CheckpointError

_LEFTOVER: Final = re.compile(r"\.step-\d{8,}\.(draft|old)")


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


def keep_newest(checkpoints_dir: Path, count: int) -> None:
    """Delete all committed checkpoints but the newest ``count``, and what a killed writer left.

    Anything else in the folder is not ours to delete, and counts for nothing.
    """
    leftovers = [path for path in checkpoints_dir.iterdir() if _LEFTOVER.fullmatch(path.name)]
    for path in (*leftovers, *committed_checkpoints(checkpoints_dir)[:-count]):
        shutil.rmtree(path)


def _step_of(folder: Path) -> int | None:
    """None for what is not a whole checkpoint of ours; a link leads to somebody else's."""
    if folder.is_symlink():
        return None
    try:
        manifest = read_manifest(folder)
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except (CheckpointError, OSError):
        return None
    as_said = all(sizes[name] == facts.size_bytes for name, facts in manifest.files.items())
    return manifest.step if as_said and folder.name == folder_name(manifest.step) else None
