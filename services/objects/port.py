"""What the service asks of an object store; a folder and S3 answer alike (one contract test)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedRequest:
    """A request that somebody without credentials may make, once for these bytes only."""

    method: str
    url: str
    headers: dict[str, str]
    """To be sent exactly as they stand; Content-Length must be the signed size."""


class ObjectStore(Protocol):
    """Keys are checked (``keys.check_key``); all methods are safe from several threads.

    Every method raises ObjectStoreDownError when the store does not answer (worth trying again)
    and InvalidKeyError for a key outside the alphabet; what else is raised stands beside it.
    """

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's bytes, replacing what is there; readers see all of it or the old one."""

    def put_bytes(self, key: str, body: bytes) -> None:
        """Store ``body``, replacing what is there."""

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        """The object's bytes; ObjectMissingError, ObjectTooBigError over ``limit_bytes``."""

    def get_to(self, key: str, path: Path) -> None:
        """Write the object to ``path`` (which appears whole or not); ObjectMissingError."""

    def size(self, key: str) -> int | None:
        """Length in bytes, None where there is no object."""

    def commit_once(self, key: str, body: bytes) -> bool:
        """Create the object unless one is there; True where ours (equal bytes) is what stands."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """All keys under ``prefix`` (it must end in ``/``), sorted."""

    def sign_put(self, key: str, *, size_bytes: int, sha256: str, expires_s: int) -> SignedRequest:
        """A PUT that the store accepts only with exactly this length and SHA-256 (64 hex)."""

    def sign_get(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object until it expires."""

    def prove_conditional_writes(self) -> None:
        """Write a probe key twice; raises ConditionalWritesError where the second one wins."""
