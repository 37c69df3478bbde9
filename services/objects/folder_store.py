"""The object store as a folder, for one machine; one contract test for it and for S3."""

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from services.objects.errors import ObjectMissingError, ObjectTooBigError
from services.objects.folder_files import (
    INCOMING,
    NOTHING_THERE,
    checked,
    delete,
    directory,
    link,
    open_regular,
    rename,
    translated,
    write,
)
from services.objects.folder_parts import FolderParts
from services.objects.keys import check_key, check_prefix
from services.objects.local_files import COPY_BYTES, appearing_whole, pieces_of
from services.objects.port import SignedRequest
from services.objects.probing import prove_conditional_writes
from services.objects.signing import SignedGrant, UrlSigner, verify_signed

_BROKEN_AFTER_S: Final = 24 * 3600  # a running upload writes to its file all the time


class FolderStore:
    """An ``ObjectStore`` in one root folder, which is created where it is missing."""

    def __init__(self, root: Path, signer: UrlSigner) -> None:
        self._root = root
        self._signer = signer
        self.parts = FolderParts(root, signer)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._put(key, lambda target: shutil.copyfileobj(source, target, COPY_BYTES))

    def put_bytes(self, key: str, body: bytes) -> None:
        self._put(key, lambda target: target.write(body))

    def receive(self, key: str, chunks: Iterable[bytes], *, size_bytes: int, sha256: str) -> None:
        """Store a signed PUT's body; ObjectCorruptError where its size or SHA-256 differs."""
        self._put(key, checked(key, chunks, size_bytes=size_bytes, sha256=sha256))

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        with self.open_read(key) as source:
            body = source.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise ObjectTooBigError(key, limit_bytes=limit_bytes)
        return body

    def get_first(self, key: str, num_bytes: int) -> bytes:
        with self.open_read(key) as source:
            return source.read(num_bytes)

    @contextlib.contextmanager
    def open_range(self, key: str, *, start: int, size_bytes: int) -> Iterator[Iterator[bytes]]:
        with self.open_read(key) as source:
            source.seek(start)
            yield pieces_of(source, size_bytes)

    def get_to(self, key: str, path: Path) -> None:
        with self.open_read(key) as source, appearing_whole(path) as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def open_read(self, key: str) -> BinaryIO:
        """The object as a stream, which the caller closes; raises ObjectMissingError."""
        parts = check_key(key)
        try:
            return open_regular(self._root, parts)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                raise ObjectMissingError(key) from error
            raise translated(error, key) from error

    def size(self, key: str) -> int | None:
        try:
            with self.open_read(key) as source:
                return os.fstat(source.fileno()).st_size
        except ObjectMissingError:
            return None

    def commit_once(self, key: str, body: bytes) -> bool:
        try:
            self._put(key, lambda target: target.write(body), give_name=link)
        except FileExistsError:
            with self.open_read(key) as existing:
                return existing.read(len(body) + 1) == body
        return True

    def delete(self, key: str) -> None:
        parts = check_key(key)
        try:
            delete(self._root, parts)
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise translated(error, key) from error

    def list_keys(self, prefix: str) -> Iterator[str]:
        parts = check_prefix(prefix)
        found: list[str] = []
        try:
            with self._directory(parts, create=False) as top:
                for folder, _, names, fd in os.fwalk(".", dir_fd=top):
                    below = prefix + folder[2:] + ("/" if folder != "." else "")
                    found += [below + name for name in names if _is_file(name, fd)]
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise translated(error, prefix) from error
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

    def sign_head(self, key: str, *, expires_s: int) -> str:
        check_key(key)
        return self._signer.url(key, method="HEAD", expires_at=_after(expires_s))

    def verify(self, key: str, query: Mapping[str, str], method: str) -> SignedGrant:
        """What a signed URL allows; raises BadSignatureError and InvalidKeyError."""
        return verify_signed(key, query, self._signer.signing_key, datetime.now(UTC), method)

    def prove_conditional_writes(self) -> None:
        """See ``ObjectStore``. Also deletes the unfinished files of killed writers."""
        self._delete_broken_uploads()
        # A file system without hard links fails here, and not at the first commit.
        prove_conditional_writes(self, f"{self._root} lets two writers create one object")

    def _delete_broken_uploads(self) -> None:
        with self._directory((INCOMING,), create=True) as incoming:
            for name in os.listdir(incoming):  # noqa: PTH208  # a descriptor, not a path
                with contextlib.suppress(FileNotFoundError):  # another process deleted it first
                    age_s = time.time() - os.stat(name, dir_fd=incoming).st_mtime
                    if age_s > _BROKEN_AFTER_S:
                        os.unlink(name, dir_fd=incoming)

    def _put(
        self,
        key: str,
        fill: Callable[[BinaryIO], object],
        *,
        give_name: Callable[[str, int, str, int], None] = rename,
    ) -> None:
        parts = check_key(key)
        try:
            write(self._root, parts, fill, give_name=give_name)
        except FileExistsError:
            raise
        except OSError as error:
            raise translated(error, key) from error

    def _directory(
        self, parts: tuple[str, ...], *, create: bool
    ) -> contextlib.AbstractContextManager[int]:
        return directory(self._root, parts, create=create)


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:  # deleted while the folder is listed
        return False


def _after(expires_s: int) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=expires_s)
