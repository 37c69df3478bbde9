"""The object store's interface; a folder and S3 implement it under one contract test."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedRequest:
    """A request that a client may make without credentials, for exactly the signed bytes."""

    method: str
    url: str
    headers: dict[str, str]
    """To be sent exactly as they are; Content-Length must be the signed size."""


class PartUploads(Protocol):
    """Large objects that clients send in parts, and go on with after an interruption.

    The store is all that remembers an upload: it is found again by its key. Methods raise as those
    of ``ObjectStore`` do.
    """

    def begin(self, key: str) -> str:
        """The id of the upload of this key: of the one under way, or of a new one."""

    def sizes(self, key: str, upload_id: str) -> dict[int, int]:
        """Number of each part that is stored, from 1 → its length in bytes; none where the upload
        has ended."""

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
        """A PUT of one part, which the store accepts only with exactly this length and SHA-256."""

    def finish(self, key: str, upload_id: str) -> None:
        """Join the parts by number; nothing happens where there are none, or it has ended.

        Other uploads of this key end with it.
        """

    def keys(self, prefix: str) -> set[str]:
        """The keys under ``prefix`` of which an upload is under way."""

    def drop(self, key: str) -> int:
        """End the uploads of this key, with their parts; how many."""

    def abort(self, prefix: str, *, older_than: timedelta) -> int:
        """End the uploads under ``prefix`` that began longer ago, with their parts; how many."""


def attached(name: str) -> str:
    """Content-Disposition of a download. ``name``: the last part of a key, so nothing to escape."""
    return f'attachment; filename="{name}"'


class AttemptObjects(Protocol):
    """The part of the object store that an attempt uses; a remote worker has no more.

    Keys are checked (``keys.check_key``); all methods may be called from several threads.

    Every method raises ObjectStoreDownError where the store does not answer (try again later),
    ObjectStoreRefusedError where it refuses, and InvalidKeyError for a wrong key. Other errors are
    named at the method.
    """

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's bytes, replacing an older object; readers see the old or the new one."""

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        """The object's bytes. Raises ObjectMissingError, and ObjectTooBigError above the limit."""

    def get_to(self, key: str, path: Path) -> None:
        """Write the object to ``path``, wholly or not at all; raises ObjectMissingError."""

    def open_range(
        self, key: str, *, start: int, size_bytes: int
    ) -> AbstractContextManager[Iterator[bytes]]:
        """A range of an object, in pieces as they arrive; shorter where the object ends before.

        Raises ObjectMissingError.
        """

    def commit_once(self, key: str, body: bytes) -> bool:
        """Create the object unless one exists; True where the object now has these bytes."""

    def prove_conditional_writes(self) -> None:
        """Write a test object twice; ConditionalWritesError where the second write succeeds.

        Also deletes the test objects that killed processes left.
        """


class ObjectStore(AttemptObjects, Protocol):
    """The whole object store; errors as those of ``AttemptObjects``."""

    @property
    def parts(self) -> PartUploads:
        """Uploads in parts."""

    def put_bytes(self, key: str, body: bytes) -> None:
        """Store ``body``, replacing an older object."""

    def size(self, key: str) -> int | None:
        """Length in bytes, None where there is no object."""

    def get_first(self, key: str, num_bytes: int) -> bytes:
        """The first bytes of an object, fewer where it is shorter; raises ObjectMissingError."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """All keys under ``prefix``, which ends in ``/``; sorted."""

    def sign_put(self, key: str, *, size_bytes: int, sha256: str, expires_s: int) -> SignedRequest:
        """A PUT that the store accepts only with exactly this length and SHA-256 (64 hex)."""

    def sign_get(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object, or a range of it, as a download until it expires."""

    def sign_head(self, key: str, *, expires_s: int) -> str:
        """A URL that answers HEAD until it expires. S3 refuses HEAD at a URL for GET."""
