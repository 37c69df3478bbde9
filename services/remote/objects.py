"""The object store by signed URLs: files of the held run only, each address asked for first."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from services.client.errors import ProblemError
from services.domain.ledger import LedgerDownError
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
    ObjectTooBigError,
)
from services.objects.keys import check_key
from services.objects.local_files import COPY_BYTES, appearing_whole, sha256_of
from services.remote.session import InsecureUrlError, WorkerSession

LARGEST_FILE_BYTES: Final = 5 << 30
"""What S3 takes in one PUT."""
_ADDRESS_S: Final = 120.0
"""So long an address is used again; the service signs it for 300 s."""
_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)


class SignedObjects:
    """Implements ``AttemptObjects`` for the session's held run; safe to share among threads."""

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._addresses: dict[str, tuple[str, float]] = {}
        """Key → its signed address, and when it was asked for."""
        # A client of its own: a signed URL carries its own right, and must not carry the key.
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            headers={"Accept-Encoding": "identity", "User-Agent": "reverie"},
            verify=session.trust.context(),
        )

    def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_FILE_BYTES:
            raise ObjectStoreRefusedError(
                f"{key} has {size_bytes} bytes; a worker over HTTPS stores files of up to "
                f"{LARGEST_FILE_BYTES}, which is what S3 takes in one request"
            )
        facts = {"key": key, "size_bytes": size_bytes, "sha256": sha256_of(path)}
        signed = self._signed("sign-write", facts)
        with _answering(key), path.open("rb") as source:
            answer = self._http.request(
                signed["method"], signed["url"], headers=signed["headers"], content=source
            )
        # 400: the bytes changed on the way, or the file did, which the caller finds out.
        if not answer.is_success:
            raise _refusal(key, answer, may_pass=answer.status_code == 400)

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        body = bytearray()
        with self._opened(key) as pieces:
            for piece in pieces:
                body += piece
                if len(body) > limit_bytes:
                    raise ObjectTooBigError(key, limit_bytes=limit_bytes)
        return bytes(body)

    def get_to(self, key: str, path: Path) -> None:
        with self._opened(key) as pieces, appearing_whole(path) as target:
            for piece in pieces:
                target.write(piece)

    @contextlib.contextmanager
    def open_range(self, key: str, *, start: int, size_bytes: int) -> Iterator[Iterator[bytes]]:
        """Many ranges of a file are read one after another, so its address is asked for rarely."""
        check_key(key)
        headers = {"Range": f"bytes={start}-{start + size_bytes - 1}"}
        url = self._address_of(key)
        with _answering(key), self._http.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 416:  # the object ends before
                yield iter(())
                return
            if not answer.is_success:
                self._addresses.pop(key, None)
                raise _refusal(key, answer, may_pass=answer.status_code == 403)
            if answer.status_code != 206:
                raise ObjectStoreRefusedError(f"{key}: the store does not answer ranges of files")
            yield answer.iter_raw(COPY_BYTES)

    def _address_of(self, key: str) -> str:
        found = self._addresses.get(key)
        if found is None or time.monotonic() - found[1] > _ADDRESS_S:
            found = self._signed("sign-read", {"key": key})["url"], time.monotonic()
            for old, (_, asked_s) in list(self._addresses.items()):
                if found[1] - asked_s > _ADDRESS_S:
                    self._addresses.pop(old, None)
            self._addresses[key] = found
        return found[0]

    def commit_once(self, key: str, body: bytes) -> bool:
        """By the service itself, so that nothing is committed after the lease was lost."""
        check_key(key)
        return bool(self._ask("commit-manifest", {"key": key, "text": body.decode()})["is_same"])

    def prove_conditional_writes(self) -> None:
        """Nothing to prove: only the service makes conditional writes, and proves them itself."""

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[Iterator[bytes]]:
        """The pieces of an object, as they arrive."""
        check_key(key)
        signed = self._signed("sign-read", {"key": key})
        with _answering(key), self._http.stream("GET", signed["url"]) as answer:
            if not answer.is_success:
                raise _refusal(key, answer)
            # Raw: nobody but the store may say how the bytes are encoded.
            yield answer.iter_raw(COPY_BYTES)

    def _signed(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        """The signed request; its address may be another host's than the service's."""
        signed = self._ask(action, body)
        try:
            self._session.trust.check(signed["url"])
        except InsecureUrlError as error:
            raise ObjectStoreRefusedError(str(error)) from error
        return signed

    def _ask(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        held = self._session.held
        assert held is not None, "files belong to a claimed run"
        try:
            return self._session.ask(action, held, body)
        except LedgerDownError as error:
            raise ObjectStoreDownError(str(error)) from error
        except ProblemError as error:
            if error.code == "not_found":
                raise ObjectMissingError(str(body["key"])) from error
            raise ObjectStoreRefusedError(str(error)) from error


@contextlib.contextmanager
def _answering(key: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:  # its text may hold the signed URL
        raise ObjectStoreDownError(f"{key}: no answer ({type(error).__name__})") from None


def _refusal(key: str, answer: httpx.Response, *, may_pass: bool = False) -> Exception:
    status = answer.status_code
    if status == 404:
        return ObjectMissingError(key)
    if may_pass or status >= 500 or status in (408, 429):
        return ObjectStoreDownError(f"{key}: the store answered {status}")
    return ObjectStoreRefusedError(f"{key}: the store answered {status}")
