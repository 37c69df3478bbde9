"""Sending a file to the object store by signed requests, as a whole or in parts."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from services.client.client import Client
from services.client.dataset_shapes import NewFile, Part, Upload
from services.client.errors import FileChangedError, UploadFailedError
from services.client.retry import RETRIED_STATUSES

TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
_READ_BYTES: Final = 1 << 20
_AGAIN: Final = "push the folder again: what is stored is not sent again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploader:
    """Sends files of a dataset; several threads may use it at once."""

    client: Client
    store: httpx.Client
    """A client of its own: a signed request carries its own right, and must not carry the key."""
    dataset_id: str
    note_sent: Callable[[int], None]
    """Called with the length of each whole file and each part that is stored, also from before."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set it, and no further part and no further try is begun."""

    def send(self, path: Path, file: NewFile, upload: Upload) -> None:
        """Store the file's content. What was stored by an interrupted push is not sent again.

        Raises FileChangedError where the file is not the one that was declared, and
        UploadFailedError.
        """
        part_size_bytes = upload["part_size_bytes"]
        if part_size_bytes is not None:
            self._send_parts(path, file, part_size_bytes)
            return
        body = path.read_bytes()
        if len(body) != file["size_bytes"] or _sha256(body) != file["sha256"]:
            raise FileChangedError(path)
        self._put(upload, body, file["path"])
        self.note_sent(len(body))

    def _send_parts(self, path: Path, file: NewFile, part_size_bytes: int) -> None:
        """Ask for the missing parts, send them, and ask again until the file is stored."""
        digests = _part_digests(path, file, part_size_bytes)
        noted: set[int] = set()
        for _ in range(self.client.retry.tries + 1):
            state = self.client.sign_parts(self.dataset_id, file["path"], digests)
            if state["present"]:
                return
            with path.open("rb") as source:
                for part in state["parts"]:
                    if self.stopping.is_set():
                        return
                    if not part["present"]:
                        self._send_part(source, path, part, part_size_bytes, digests)
                    if part["number"] not in noted:
                        noted.add(part["number"])
                        self.note_sent(part["size_bytes"])
        raise UploadFailedError(f"{file['path']}: the store does not keep its parts; push it again")

    def _send_part(
        self, source: BinaryIO, path: Path, part: Part, part_size_bytes: int, digests: list[str]
    ) -> None:
        source.seek((part["number"] - 1) * part_size_bytes)
        body = source.read(part["size_bytes"])
        if _sha256(body) != digests[part["number"] - 1]:
            raise FileChangedError(path)
        self._put(part, body, f"{path.name}, part {part['number']}")

    def _put(self, signed: Upload | Part, body: bytes, name: str) -> None:
        """Send exactly the signed headers; a PUT of the same content may be repeated."""
        method, url = signed["method"], signed["url"]
        if method is None or url is None:
            raise UploadFailedError(f"{name}: the service gave no address to send it to")
        retry = self.client.retry
        for failed in range(1, retry.tries + 1):
            retry_after = None
            try:
                answer = self.store.request(method, url, headers=signed["headers"], content=body)
            except httpx.TransportError as error:
                reason = type(error).__name__  # its text may hold the signed URL
                if failed == retry.tries:
                    raise UploadFailedError(f"{name}: no answer ({reason}); {_AGAIN}") from None
            else:
                if answer.is_success:
                    return
                status = answer.status_code
                if failed == retry.tries or not _may_pass(status):
                    raise UploadFailedError(f"{name}: the object store answered {status}; {_AGAIN}")
                retry_after = answer.headers.get("Retry-After")
            if self.stopping.wait(retry.wait_s(failed, retry_after)):
                raise UploadFailedError(f"{name}: the push was stopped")


def _part_digests(path: Path, file: NewFile, part_size_bytes: int) -> list[str]:
    """SHA-256 of each part. Raises FileChangedError where the whole is not the declared file."""
    whole, parts = hashlib.sha256(), []
    with path.open("rb") as source:
        for start in range(0, file["size_bytes"], part_size_bytes):
            part = hashlib.sha256()
            left = min(part_size_bytes, file["size_bytes"] - start)
            while left and (piece := source.read(min(left, _READ_BYTES))):
                part.update(piece)
                whole.update(piece)
                left -= len(piece)
            parts.append(part.hexdigest())
        is_longer = bool(source.read(1))
    if is_longer or whole.hexdigest() != file["sha256"]:
        raise FileChangedError(path)
    return parts


def _may_pass(status: int) -> bool:
    """Object stores answer 500 to what works a moment later. Source: S3's error responses."""
    return status in RETRIED_STATUSES or status == 500


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
