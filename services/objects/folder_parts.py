"""Uploads in parts to the folder store: each is a folder with a file for each part."""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from services.objects.errors import ObjectMissingError
from services.objects.folder_files import NOTHING_THERE, checked, directory, translated, write
from services.objects.keys import check_key, check_prefix
from services.objects.local_files import COPY_BYTES
from services.objects.port import SignedRequest
from services.objects.signing import UploadPart, UrlSigner

_PARTS: Final = ".parts"  # no key starts with a dot
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderParts:
    """A ``PartUploads``. Parts are at ``.parts/<key>@<upload id>/<number>`` until they are joined.

    In ``<key>`` a plus stands for each slash; neither plus nor @ can be in a key.
    """

    def __init__(self, root: Path, signer: UrlSigner) -> None:
        self._root = root
        self._signer = signer

    def begin(self, key: str) -> str:
        try:
            with directory(self._root, (_PARTS,), create=True) as folder:
                fcntl.flock(folder, fcntl.LOCK_EX)  # all who begin at once go on with one
                found = _uploads_of(folder, key)
                if found:
                    return min(found)
                upload_id = secrets.token_hex(16)
                os.mkdir(_name(key, upload_id), dir_fd=folder)
                return upload_id
        except OSError as error:
            raise translated(error, key) from error

    def sizes(self, key: str, upload_id: str) -> dict[int, int]:
        try:
            with directory(self._root, (_PARTS, _name(key, upload_id)), create=False) as folder:
                return {
                    number: os.stat(str(number), dir_fd=folder).st_size for number in _in(folder)
                }
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return {}
            raise translated(error, key) from error

    def sign(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        size_bytes: int,
        sha256: str,
        expires_s: int,
    ) -> SignedRequest:
        check_key(key)
        url = self._signer.url(
            key,
            method="PUT",
            expires_at=datetime.now(UTC) + timedelta(seconds=expires_s),
            size_bytes=size_bytes,
            sha256=sha256,
            part=UploadPart(upload_id=upload_id, number=number),
        )
        return SignedRequest(method="PUT", url=url, headers={})

    def receive(
        self, key: str, part: UploadPart, chunks: Iterable[bytes], *, size_bytes: int, sha256: str
    ) -> None:
        """Store a signed PUT's body as a part.

        Raises ObjectCorruptError where its size or SHA-256 differs, and ObjectMissingError where
        the upload has ended.
        """
        place = (_PARTS, _name(key, part.upload_id), str(part.number))
        fill = checked(key, chunks, size_bytes=size_bytes, sha256=sha256)
        try:
            write(self._root, place, fill, create=False)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                raise ObjectMissingError(key) from error
            raise translated(error, key) from error

    def finish(self, key: str, upload_id: str) -> None:
        try:
            with directory(self._root, (_PARTS, _name(key, upload_id)), create=False) as folder:
                numbers = sorted(_in(folder))

                def join(target: BinaryIO) -> None:
                    for number in numbers:
                        with os.fdopen(os.open(str(number), _READ, dir_fd=folder), "rb") as part:
                            shutil.copyfileobj(part, target, COPY_BYTES)

                if numbers:
                    write(self._root, check_key(key), join)
        except OSError as error:
            if error.errno in NOTHING_THERE:  # another request has finished it
                return
            raise translated(error, key) from error
        self.drop(key)

    def keys(self, prefix: str) -> set[str]:
        check_prefix(prefix)
        try:
            with directory(self._root, (_PARTS,), create=True) as folder:
                names = os.listdir(folder)  # noqa: PTH208  # a descriptor, not a path
        except OSError as error:
            raise translated(error, prefix) from error
        found = {name.rpartition("@")[0].replace("+", "/") for name in names}
        return {key for key in found if key.startswith(prefix)}

    def drop(self, key: str) -> int:
        try:
            with directory(self._root, (_PARTS,), create=True) as folder:
                found = _uploads_of(folder, key)
                for upload_id in found:
                    shutil.rmtree(_name(key, upload_id), ignore_errors=True, dir_fd=folder)
        except OSError as error:
            raise translated(error, key) from error
        return len(found)

    def abort(self, prefix: str, *, older_than: timedelta) -> int:
        check_prefix(prefix)
        num_aborted = 0
        try:
            with directory(self._root, (_PARTS,), create=True) as folder:
                for name in os.listdir(folder):  # noqa: PTH208  # a descriptor, not a path
                    if not name.replace("+", "/").startswith(prefix):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                        # Since its last part came; S3 knows only when the upload began.
                        idle_s = time.time() - os.stat(name, dir_fd=folder).st_mtime
                        if idle_s >= older_than / timedelta(seconds=1):
                            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
                            num_aborted += 1
        except OSError as error:
            raise translated(error, prefix) from error
        return num_aborted


def _name(key: str, upload_id: str) -> str:
    """The folder of an upload; raises InvalidKeyError."""
    return "@".join(("+".join(check_key(key)), *check_key(upload_id)))


def _uploads_of(folder: int, key: str) -> list[str]:
    """The ids of the uploads of a key."""
    prefix = "+".join(check_key(key)) + "@"
    names = os.listdir(folder)  # a descriptor, not a path
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _in(folder: int) -> list[int]:
    """The numbers of the parts in an upload's folder."""
    return [int(name) for name in os.listdir(folder)]  # a descriptor, not a path
