"""Checkpoint folders on disk: which are complete, and which are deleted. Imports no torch."""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from trainer_core.checkpoint.layout import (
    MANIFEST_NAME,
    STATE_NAME,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
    are_state_names,
    checkpoint_name,
    is_state_name,
    opened,
)
from trainer_core.errors import CheckpointCorruptError, CheckpointError

_NAME: Final = re.compile(r"step-(\d{8,})")
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
    """The manifest of a checkpoint.

    Raises CheckpointError where there is no such folder, and CheckpointCorruptError where the
    manifest is missing or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}")
    name = f"{folder.name}/{MANIFEST_NAME}"
    try:
        return opened((folder / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointCorruptError(f"{name} is missing") from error
    except ValueError as error:
        raise CheckpointCorruptError(f"{name} is damaged, or of a newer version") from error


def check_sizes(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint whose files are there, in the right sizes.

    Raises CheckpointCorruptError, which names the file and what is wrong with it.
    """
    manifest = read_manifest(folder)
    if not are_state_names(manifest.files):
        raise CheckpointCorruptError(
            f"{folder.name} has the files {sorted(manifest.files)}, and not {STATE_NAME} alone, "
            "nor one of each process"
        )
    for name, facts in manifest.files.items():
        try:
            size_bytes = (folder / name).stat().st_size
        except FileNotFoundError as error:
            raise CheckpointCorruptError(f"{folder.name}/{name} is missing") from error
        if size_bytes != facts.size_bytes:
            raise CheckpointCorruptError(
                f"{folder.name}/{name} has {size_bytes} bytes, and {facts.size_bytes} in its "
                "manifest"
            )
    return manifest


def check_digests(folder: Path, *, share: int = 0, shares: int = 1) -> CheckpointManifest:
    """As ``check_sizes``, and reads the files to compare their SHA-256, too.

    ``share`` of ``shares``: several processes read each file once between them.
    """
    manifest = check_sizes(folder)
    for name in sorted(manifest.files)[share::shares]:
        if facts_of(folder / name) != manifest.files[name]:
            raise CheckpointCorruptError(
                f"{folder.name}/{name} is damaged: its SHA-256 is not the one in its manifest"
            )
    return manifest


def has_state(folder: Path) -> bool:
    """Whether a folder has a state file, even if it is not complete."""
    return any(is_state_name(file.name) and file.is_file() for file in folder.iterdir())


def step_in(name: str) -> int | None:
    """The step in the name of a checkpoint's folder; None where it is no such name."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCheckpoints:
    """The checkpoints in a folder, each list the oldest first."""

    whole: tuple[Path, ...]
    damaged: tuple[tuple[Path, str], ...]
    """Each with what is wrong with it."""


def stored_checkpoints(checkpoints_dir: Path) -> StoredCheckpoints:
    """The folders with the name of a checkpoint; none where ``checkpoints_dir`` does not exist.

    Links are not followed. Files are compared by their sizes; ``check_digests`` compares digests.
    """
    whole: list[tuple[int, Path]] = []
    damaged: list[tuple[int, Path, str]] = []
    for path in checkpoints_dir.iterdir() if checkpoints_dir.is_dir() else ():
        step = step_in(path.name)
        if step is None or path.is_symlink() or not path.is_dir():
            continue
        try:
            manifest = check_sizes(path)
        except CheckpointError as error:
            if path.is_dir():  # otherwise its run has deleted it meanwhile
                damaged.append((step, path, error.message))
            continue
        if path.name == checkpoint_name(manifest.step):
            whole.append((manifest.step, path))
        else:
            why = f"{path.name}/{MANIFEST_NAME} is the one of step {manifest.step}"
            damaged.append((step, path, why))
    return StoredCheckpoints(
        whole=tuple(path for _, path in sorted(whole)),
        damaged=tuple((path, why) for _, path, why in sorted(damaged)),
    )


def committed_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """The whole ones of ``stored_checkpoints``."""
    return list(stored_checkpoints(checkpoints_dir).whole)


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint or a result has all files of its manifest, in the right sizes."""
    try:
        files = _MANIFEST.validate_json((folder / MANIFEST_NAME).read_bytes()).files
        return all((folder / name).stat().st_size == f.size_bytes for name, f in files.items())
    except (OSError, ValidationError):
        return False


def is_result(folder: Path) -> bool:
    """Whether it is the folder of a result, by its manifest."""
    try:
        return _MANIFEST.validate_json((folder / MANIFEST_NAME).read_bytes()).kind == "result"
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


def keep_newest(checkpoints_dir: Path, count: int, *, best_step: int | None = None) -> None:
    """Delete all complete checkpoints except the newest ``count``, and leftovers of killed writers.

    Where ``count`` is at least 2, the checkpoint of ``best_step`` takes the place of the oldest
    that is kept. Other files and folders are neither counted nor deleted.
    """
    repair_checkpoints(checkpoints_dir)
    stored = committed_checkpoints(checkpoints_dir)
    kept = stored[-count:]
    best = [path for path in stored if count > 1 and step_in(path.name) == best_step]
    if best and best[0] not in kept:
        kept = [*best, *kept[1:]]
    for path in stored:
        if path in kept:
            continue
        # Renamed first, so that a kill leaves no half-deleted folder under a checkpoint's name.
        gone = path.rename(path.with_name(f".{path.name}.gone"))
        shutil.rmtree(gone)
