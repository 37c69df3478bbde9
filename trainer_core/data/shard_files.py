"""The files of cache shards: ``<digest>.safetensors``, and a note ``<digest>.json`` beside it.

A shard is named by the digest of what it is made from. Its own bytes can be damaged later, by a
disk or a copy; the note says what they were. Imports no torch.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from trainer_core.config.plan.frozen import Frozen, Many

_SUFFIX: Final = ".json"


def shard_name(digest: str) -> str:
    """The file name of a shard."""
    return f"{digest}.safetensors"


class ShardNote(Frozen):
    """What a shard's file was when it was written."""

    size_bytes: int
    sha256: str
    times_ns: Many[int] = ()
    """mtime and ctime of the file with this content: as long as they stay, the content is trusted
    until it is read. Empty: not known."""


def note_path(shard: Path) -> Path:
    """Where the note of a shard's file is."""
    return shard.with_suffix(_SUFFIX)


def write_note(shard: Path, sha256: str, *, file: Path | None = None) -> None:
    """Write the note of a shard; it appears complete or not at all. Raises OSError.

    ``file``: has the content, where the shard does not have its name yet.
    """
    facts = (file or shard).stat()
    times_ns = () if file else (facts.st_mtime_ns, facts.st_ctime_ns)
    note = ShardNote(size_bytes=facts.st_size, sha256=sha256, times_ns=times_ns)
    draft = shard.with_name(f".{shard.name}.note.{os.getpid()}.tmp")
    try:
        draft.write_text(note.model_dump_json() + "\n", encoding="utf-8")
        draft.replace(note_path(shard))
    finally:
        draft.unlink(missing_ok=True)


def read_note(shard: Path) -> ShardNote | None:
    """The note of a shard; None where there is none that can be read."""
    try:
        return ShardNote.model_validate_json(note_path(shard).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def is_unchanged(shard: Path, note: ShardNote) -> bool:
    """Whether size and times of a shard's file are those of its note. Raises OSError."""
    facts = shard.stat()
    times_ns = (facts.st_mtime_ns, facts.st_ctime_ns)
    return (facts.st_size, times_ns) == (note.size_bytes, note.times_ns)


def damage_of(shard: Path, note: ShardNote) -> str | None:
    """What is wrong with a shard's file, which is read; None where it is whole. Raises OSError."""
    size_bytes = shard.stat().st_size
    if size_bytes != note.size_bytes:
        return f"{shard.name} has {size_bytes} bytes instead of {note.size_bytes}"
    with shard.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != note.sha256:
            return f"{shard.name} is damaged: its SHA-256 is not the one it was written with"
    return None
