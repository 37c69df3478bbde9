"""Files below a root folder, reached without following any link, and written wholly or not at all.

Every path is walked part by part with O_NOFOLLOW from the root's file descriptor, so that no key
and no link inside the folder leads out of it.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from services.metrics.dependencies import object_store_errors
from services.objects.errors import (
    ObjectCorruptError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
)

INCOMING: Final = ".incoming"  # no key starts with a dot
NOTHING_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_TRIES: Final = 100
"""Of giving a file its name while deletions take its folder, each of them once."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_RIGHT: Final = (
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
)


@contextlib.contextmanager
def directory(root: Path, parts: tuple[str, ...], *, create: bool) -> Iterator[int]:
    """File descriptor of a folder below the root."""
    if create:
        root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                    os.fsync(fd)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def open_regular(root: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open a file to read it.

    Raises OSError as it comes, and IsADirectoryError for all that is no regular file.
    """
    with directory(root, parts[:-1], create=False) as parent:
        # Not blocking: the path could be a named pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(parts[-1], flags, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, "no regular file", parts[-1])
    return os.fdopen(fd, "rb")


def rename(name: str, folder: int, new_name: str, new_folder: int) -> None:
    os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)


def link(name: str, folder: int, new_name: str, new_folder: int) -> None:
    """Unlike a rename, a link fails where a file exists: the folder's If-None-Match."""
    os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)


def write(
    root: Path,
    parts: tuple[str, ...],
    fill: Callable[[BinaryIO], object],
    *,
    give_name: Callable[[str, int, str, int], None] = rename,
    create: bool = True,
) -> None:
    """Write a temporary file, flush it to disk, then rename it: no reader sees half a file.

    Raises FileExistsError where ``give_name`` does, and otherwise OSError as it comes.

    Args:
        create: the folder of the file where it is missing.
    """
    temporary = secrets.token_hex(16)
    tries = _TRIES if create else 1
    with directory(root, (INCOMING,), create=True) as incoming:
        try:
            _write_new(temporary, incoming, fill)
            for tries_left in reversed(range(tries)):
                try:
                    with directory(root, parts[:-1], create=create) as parent:
                        give_name(temporary, incoming, parts[-1], parent)
                        os.fsync(parent)
                        return
                except FileNotFoundError:  # the folder was empty, and a deletion took it
                    if not tries_left:
                        raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=incoming)


def delete(root: Path, parts: tuple[str, ...]) -> None:
    """Delete a file, and those of its folders that are empty then. Raises OSError as it comes."""
    with directory(root, parts[:-1], create=False) as parent:
        os.unlink(parts[-1], dir_fd=parent)
        os.fsync(parent)
    for length in range(len(parts) - 1, 0, -1):
        try:
            with directory(root, parts[: length - 1], create=False) as parent:
                os.rmdir(parts[length - 1], dir_fd=parent)
        except OSError:  # it is not empty, or another deletion took it; one that stays is harmless
            return


def _write_new(name: str, folder: int, fill: Callable[[BinaryIO], object]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as target:
        fill(target)
        target.flush()
        os.fsync(target.fileno())


def translated(error: OSError, key: str) -> ObjectStoreDownError | ObjectStoreRefusedError:
    """What the port raises where the file system fails."""
    kind = ObjectStoreRefusedError if error.errno in _NO_RIGHT else ObjectStoreDownError
    object_store_errors.labels(code=kind.code).inc()
    return kind(f"{key}: {error.strerror}")


def checked(
    key: str, chunks: Iterable[bytes], *, size_bytes: int, sha256: str
) -> Callable[[BinaryIO], None]:
    """Writes these bytes to a file; it raises ObjectCorruptError where they are other ones."""

    def fill(target: BinaryIO) -> None:
        digest, seen_bytes = hashlib.sha256(), 0
        for chunk in chunks:
            seen_bytes += len(chunk)
            if seen_bytes > size_bytes:
                raise ObjectCorruptError(key, f"the body is longer than {size_bytes} bytes")
            digest.update(chunk)
            target.write(chunk)
        if seen_bytes != size_bytes or digest.hexdigest() != sha256:
            raise ObjectCorruptError(key, "the body is not the one for which the URL was signed")

    return fill
