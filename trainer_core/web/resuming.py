"""Large downloads from strangers' addresses, which go on where they stopped.

Each request is guarded as in ``fetching``.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpcore

from trainer_core.web.fetching import (
    HEADERS,
    FetchError,
    FetchLimits,
    answered,
    header_of,
    length_of,
)
from trainer_core.web.public_addresses import Network

_SHORT: Final = FetchLimits(max_bytes=0, timeout_s=30.0)
_TRIES: Final = 4
_FIRST_WAIT_S: Final = 0.5
_SLOWEST_BYTES_S: Final = 64 << 10
_NO_HEAD: Final = frozenset({403, 405, 501})
"""Statuses of servers, and of signed addresses, that answer GET only."""
_NO_SUCH_PART: Final = 416


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """A file at an address, as its server describes it."""

    url: str
    size_bytes: int
    """0: it does not say."""
    mark: str
    """Changes with the content: its ETag, or when it was modified. Empty: it has neither."""


def ask(url: str, *, allowed: Sequence[Network]) -> Remote:
    """What a server says of a file, without its bytes; raises FetchError."""
    with answered("HEAD", url, HEADERS, _SHORT, allowed=allowed, expected=(200, *_NO_HEAD)) as (
        answer,
        _,
    ):
        if answer.status == 200:
            return _described(url, answer)
    with answered("GET", url, HEADERS, _SHORT, allowed=allowed) as (answer, _):
        return _described(url, answer)


def fetch_on(
    remote: Remote,
    to: Path,
    *,
    max_bytes: int,
    allowed: Sequence[Network],
    stopping: threading.Event,
    tell: Callable[[int], None],
) -> None:
    """Have a file on this disk; what an earlier call wrote of it is kept.

    Args:
        remote: what ``ask`` gave.
        to: appears when the file is whole. What was written of it before goes on only where the
            server says that the file is still the same; else it comes anew.
        max_bytes: of the file.
        allowed: networks that may be reached although they are not public.
        stopping: gives the download up when it is set.
        tell: takes the bytes that are there, now and then; may raise.

    Raises:
        FetchError: it is not there, or the server breaks off again and again.
        OSError: ``to`` cannot be written.
    """
    draft = to.with_name(f"{to.name}.part")
    tries = 0
    while True:
        before = _size(draft)
        try:
            _go_on(
                remote, draft, max_bytes=max_bytes, allowed=allowed, stopping=stopping, tell=tell
            )
        except FetchError as error:
            tries = 1 if _size(draft) > before else tries + 1
            if not error.retryable or tries >= _TRIES or stopping.is_set():
                raise
            stopping.wait(_FIRST_WAIT_S * 2 ** (tries - 1))
        else:
            draft.replace(to)
            return


def _go_on(
    remote: Remote,
    draft: Path,
    *,
    max_bytes: int,
    allowed: Sequence[Network],
    stopping: threading.Event,
    tell: Callable[[int], None],
) -> None:
    """Fetch what is missing of a file."""
    there = _size(draft) if remote.mark and not remote.mark.startswith("W/") else 0
    if there and there == remote.size_bytes:
        return
    headers = list(HEADERS)
    if there:
        headers += [("Range", f"bytes={there}-"), ("If-Range", remote.mark)]
    timeout_s = 60 + (remote.size_bytes or max_bytes) / _SLOWEST_BYTES_S
    limits = FetchLimits(max_bytes=max_bytes, timeout_s=timeout_s)
    expected = (200, 206, _NO_SUCH_PART) if there else (200,)
    asked = answered("GET", remote.url, headers, limits, allowed=allowed, expected=expected)
    with asked as (answer, at):
        is_rest = answer.status != 200
        if is_rest and not _is_rest_of(remote, there, answer):
            draft.unlink(missing_ok=True)  # else it would be asked for the same again
            raise FetchError(at, "the server sends another part than was asked for", may_pass=True)
        size_bytes = there if is_rest else 0
        declared = length_of(answer)
        wanted_bytes = None if declared is None else size_bytes + declared
        with draft.open("ab" if is_rest else "wb") as file:
            for piece in answer.iter_stream():
                if stopping.is_set():
                    raise FetchError(at, "the download was stopped", may_pass=True)
                size_bytes += len(piece)
                if size_bytes > max_bytes:
                    raise FetchError(at, f"it is larger than {max_bytes:,} bytes")
                file.write(piece)
                tell(size_bytes)
    if wanted_bytes is not None and size_bytes != wanted_bytes:
        why = f"{size_bytes:,} of {wanted_bytes:,} bytes came"
        raise FetchError(remote.url, why, may_pass=True)


def _is_rest_of(remote: Remote, there: int, answer: httpcore.Response) -> bool:
    """Whether an answer is the rest of the same file; some servers do not look at If-Range."""
    part, _, whole = header_of(answer, b"content-range").partition("/")
    kind = b"last-modified" if remote.mark.endswith("GMT") else b"etag"
    return (
        answer.status == 206
        and part.startswith(f"bytes {there}-")
        and (not remote.size_bytes or whole in ("*", str(remote.size_bytes)))
        and header_of(answer, kind) in ("", remote.mark)
    )


def _described(url: str, answer: httpcore.Response) -> Remote:
    mark = header_of(answer, b"etag") or header_of(answer, b"last-modified")
    return Remote(url=url, size_bytes=length_of(answer) or 0, mark=mark)


def _size(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
