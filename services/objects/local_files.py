"""Writing a local file wholly or not at all, and the digest of a local file."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

COPY_BYTES: Final = 1 << 20


@contextlib.contextmanager
def appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, renamed to ``path`` at the end of the block; an error leaves no file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def pieces_of(source: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """The next bytes of a file, in pieces; fewer where it ends before."""
    while size_bytes > 0 and (piece := source.read(min(COPY_BYTES, size_bytes))):
        size_bytes -= len(piece)
        yield piece


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
