"""The object store as a folder, for one machine. It behaves like S3 (one contract test for both).

Every path is walked part by part with O_NOFOLLOW from the root's file descriptor, so that no key
and no link inside the folder leads out of it.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from services.metrics.dependencies import object_store_errors
from services.objects.errors import (
    ConditionalWritesError,
    ObjectCorruptError,
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
    ObjectTooBigError,
)
from services.objects.keys import PROBE_PREFIX, check_key, check_prefix
from services.objects.local_files import COPY_BYTES, appearing_whole
from services.objects.port import SignedRequest
from services.objects.signing import UrlSigner

_INCOMING: Final = ".incoming"  # no key starts with a dot
_BROKEN_AFTER_S: Final = 24 * 3600  # a running upload writes to its file all the time
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_NO_RIGHT: Final = (
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
)


class FolderStore:
    """An ``ObjectStore`` in one root folder, which is created where it is missing."""

    def __init__(self, root: Path, signer: UrlSigner) -> None:
        self._root = root
        self._signer = signer

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._put(key, lambda target: shutil.copyfileobj(source, target, COPY_BYTES))

    def put_bytes(self, key: str, body: bytes) -> None:
        self._put(key, lambda target: target.write(body))

    def receive(self, key: str, chunks: Iterable[bytes], *, size_bytes: int, sha256: str) -> None:
        """Store a signed PUT's body; ObjectCorruptError where its size or SHA-256 differs."""

        def write(target: BinaryIO) -> None:
            digest, seen_bytes = hashlib.sha256(), 0
            for chunk in chunks:
                seen_bytes += len(chunk)
                if seen_bytes > size_bytes:
                    raise ObjectCorruptError(key, f"the body is longer than {size_bytes} bytes")
                digest.update(chunk)
                target.write(chunk)
            if seen_bytes != size_bytes or digest.hexdigest() != sha256:
                raise ObjectCorruptError(
                    key, "the body is not the one for which the URL was signed"
                )

        self._put(key, write)

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        with self.open_read(key) as source:
            body = source.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise ObjectTooBigError(key, limit_bytes=limit_bytes)
        return body

    def get_to(self, key: str, path: Path) -> None:
        with self.open_read(key) as source, appearing_whole(path) as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def open_read(self, key: str) -> BinaryIO:
        """The object as a stream, which the caller closes; raises ObjectMissingError."""
        parts = check_key(key)
        try:
            with self._directory(parts[:-1], create=False) as parent:
                # Not blocking: the path could be a named pipe.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                fd = os.open(parts[-1], flags, dir_fd=parent)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                raise ObjectMissingError(key) from error
            raise _translated(error, key) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ObjectMissingError(key)
        return os.fdopen(fd, "rb")

    def size(self, key: str) -> int | None:
        try:
            with self.open_read(key) as source:
                return os.fstat(source.fileno()).st_size
        except ObjectMissingError:
            return None

    def commit_once(self, key: str, body: bytes) -> bool:
        try:
            self._put(key, lambda target: target.write(body), give_name=_link)
        except FileExistsError:
            with self.open_read(key) as existing:
                return existing.read(len(body) + 1) == body
        return True

    def delete(self, key: str) -> None:
        parts = check_key(key)
        try:
            with self._directory(parts[:-1], create=False) as parent:
                os.unlink(parts[-1], dir_fd=parent)
                os.fsync(parent)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise _translated(error, key) from error

    def list_keys(self, prefix: str) -> Iterator[str]:
        parts = check_prefix(prefix)
        found: list[str] = []
        try:
            with self._directory(parts, create=False) as top:
                for folder, _, names, fd in os.fwalk(".", dir_fd=top):
                    below = prefix + folder[2:] + ("/" if folder != "." else "")
                    found += [
                        below + name
                        for name in names
                        if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
                    ]
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise _translated(error, prefix) from error
        yield from sorted(found)

    def sign_put(self, key: str, *, size_bytes: int, sha256: str, expires_s: int) -> SignedRequest:
        check_key(key)
        url = self._signer.url(
            key,
            method="PUT",
            expires_at=_after(expires_s),
            size_bytes=size_bytes,
            sha256=sha256,
        )
        return SignedRequest(method="PUT", url=url, headers={})

    def sign_get(self, key: str, *, expires_s: int) -> str:
        check_key(key)
        return self._signer.url(key, method="GET", expires_at=_after(expires_s))

    def prove_conditional_writes(self) -> None:
        """See ``ObjectStore``. Also deletes the unfinished files of killed writers."""
        self._delete_broken_uploads()
        # A file system without hard links fails here, and not at the first commit.
        key = f"{PROBE_PREFIX}{secrets.token_hex(16)}"
        try:
            if not self.commit_once(key, b"first") or self.commit_once(key, b"second"):
                raise ConditionalWritesError(f"{self._root} lets two writers create one object")
        finally:
            self.delete(key)

    def _delete_broken_uploads(self) -> None:
        with self._directory((_INCOMING,), create=True) as incoming:
            for name in os.listdir(incoming):  # noqa: PTH208  # a descriptor, not a path
                with contextlib.suppress(FileNotFoundError):  # another process deleted it first
                    age_s = time.time() - os.stat(name, dir_fd=incoming).st_mtime
                    if age_s > _BROKEN_AFTER_S:
                        os.unlink(name, dir_fd=incoming)

    def _put(
        self,
        key: str,
        write: Callable[[BinaryIO], object],
        *,
        give_name: Callable[[str, int, str, int], None] | None = None,
    ) -> None:
        """Write a temporary file, flush it to disk, then rename it: no reader sees half a file."""
        parts = check_key(key)
        temporary = secrets.token_hex(16)
        try:
            with (
                self._directory((_INCOMING,), create=True) as incoming,
                self._directory(parts[:-1], create=True) as parent,
            ):
                try:
                    _write_new(temporary, incoming, write)
                    (give_name or _rename)(temporary, incoming, parts[-1], parent)
                    os.fsync(parent)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=incoming)
        except FileExistsError:
            raise
        except OSError as error:
            raise _translated(error, key) from error

    @contextlib.contextmanager
    def _directory(self, parts: tuple[str, ...], *, create: bool) -> Iterator[int]:
        """File descriptor of a folder below the root, reached without following any link."""
        if create:
            self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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


def _write_new(name: str, folder: int, write: Callable[[BinaryIO], object]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as target:
        write(target)
        target.flush()
        os.fsync(target.fileno())


def _rename(name: str, folder: int, new_name: str, new_folder: int) -> None:
    os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)


def _link(name: str, folder: int, new_name: str, new_folder: int) -> None:
    """Unlike a rename, a link fails where a file exists: the folder's If-None-Match."""
    os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)


def _translated(error: OSError, key: str) -> ObjectStoreDownError | ObjectStoreRefusedError:
    kind = ObjectStoreRefusedError if error.errno in _NO_RIGHT else ObjectStoreDownError
    object_store_errors.labels(code=kind.code).inc()
    return kind(f"{key}: {error.strerror}")


def _after(expires_s: int) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=expires_s)
