"""Downloads from addresses that come from strangers: the one way in for such bytes.

A list of addresses in a dataset may point anywhere, also into the network of the machine that reads
it. So each host is looked up once, the address is checked and connected to as checked, each
redirect is checked like the first address, and size, time and redirects have limits. No proxy,
cookie or password of the environment is used.
"""

import functools
import os
import random
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import certifi
import httpcore
import idna

from trainer_core.errors import Category, TrainerError
from trainer_core.in_words import printable
from trainer_core.web.connecting import AddressRefusedError, CheckedNetwork, NameNotFoundError
from trainer_core.web.public_addresses import Network

T = TypeVar("T")

_MAX_URL_CHARACTERS: Final = 4000
_FIRST_FREE_PORT: Final = 1024
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHOWN_CHARACTERS: Final = 120
_PATIENCE: Final = {"timeout": {"connect": 10.0, "read": 15.0, "write": 15.0, "pool": 15.0}}
"""Seconds without any byte after which a server is given up."""
HEADERS: Final[list[tuple[bytes | str, bytes | str]]] = [
    ("User-Agent", "reverie/0.1 (dataset download)"),
    ("Accept", "image/*, */*;q=0.5"),
    ("Accept-Encoding", "identity"),  # so that the declared length is that of the file
    ("Connection", "close"),
]


class FetchError(TrainerError):
    """Nothing was downloaded; the message names the address, without its query, and the reason."""

    code = "not_fetched"
    category: Category = Category.USER

    def __init__(self, url: str, why: str, *, may_pass: bool = False) -> None:
        """``may_pass``: the same address may be there a moment later."""
        super().__init__(f"{shown_url(url)}: {why}")
        self.retryable = may_pass


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """What one download may take."""

    max_bytes: int
    timeout_s: float = 60.0
    """For all of it, redirects included, but the look-ups of host names."""
    max_redirects: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file that was downloaded."""

    url: str
    """Where it was in the end."""
    size_bytes: int
    content_type: str
    """Without parameters, in lower case; empty where the server names none."""


def shown_url(url: str) -> str:
    """An address for a message: without user, password, query and fragment, which may be secrets.

    A signed address has its signature in the query.
    """
    bare = url.split("?", 1)[0].split("#", 1)[0]
    scheme, slashes, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"
    return printable(text, _SHOWN_CHARACTERS)


def fetch(
    url: str,
    to: Path,
    limits: FetchLimits,
    *,
    allowed: Sequence[Network] = (),
    stopping: threading.Event | None = None,
) -> Fetched:
    """Download one file.

    Args:
        url: http or https, without a user name.
        to: is written; what it holds after an error is no file.
        limits: of size, time and redirects.
        allowed: networks that may be reached although they are not public.
        stopping: set by another thread to give the download up.

    Raises:
        FetchError: the address is refused, the server does not answer with the file, or a limit is
            passed; ``retryable`` where it may be there a moment later.
        OSError: ``to`` cannot be written.
    """
    with answered("GET", url, HEADERS, limits, allowed=allowed) as (answer, at):
        return _kept(answer, at, to, limits, stopping or threading.Event())


def retried(
    work: Callable[[], T], *, tries: int, first_wait_s: float, stopping: threading.Event
) -> T:
    """The result of ``work``, tried again where that may help, until ``stopping`` is set.

    Waits double, and differ from thread to thread, so that a server has time to recover.

    Raises the FetchError of the last try.
    """
    for number in range(tries - 1):
        try:
            return work()
        except FetchError as error:
            if not error.retryable or stopping.is_set():
                raise
        wait_s = first_wait_s * 2**number
        stopping.wait(wait_s * (0.5 + random.random()))  # noqa: S311 - no secret
    return work()


@contextmanager
def answered(
    method: str,
    url: str,
    headers: Sequence[tuple[bytes | str, bytes | str]],
    limits: FetchLimits,
    *,
    allowed: Sequence[Network],
    expected: Collection[int] = (200,),
) -> Iterator[tuple[httpcore.Response, str]]:
    """The answer of a server, whose body is not read yet, and its address after all redirects.

    Errors of the connection in the block are raised as FetchError, too.

    Args:
        method: such as GET.
        url: as in ``fetch``.
        headers: of the request.
        limits: of time and redirects; that of bytes is for the caller.
        allowed: as in ``fetch``.
        expected: statuses of an answer; any other is an error.
    """
    network = CheckedNetwork(allowed=allowed, takes_public=True, timeout_s=limits.timeout_s)
    at = _quoted(url)
    with httpcore.ConnectionPool(ssl_context=tls_context(), network_backend=network) as pool:
        for _ in range(limits.max_redirects + 1):
            _check(at, _quoted(url))
            with (
                errors_of(at),
                pool.stream(method, at, headers=list(headers), extensions=_PATIENCE) as answer,
            ):
                target = _target(answer, at, expected)
                if target is None:
                    yield answer, at
                    return
            at = _quoted(target)
    raise FetchError(url, f"more than {limits.max_redirects} redirects")


def _quoted(url: str) -> str:
    """The address as a browser sends it: its host in ASCII, the rest percent-encoded.

    Raises FetchError.
    """
    return quote(_with_ascii_host(url.strip()), safe="%/:=&?~#+!$,;'@()*[]")


def _with_ascii_host(url: str) -> str:
    """The address with its host as name servers know it (UTS 46, not transitional)."""
    if url.isascii():
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if host.isascii():
            return url
        host = idna.encode(host, uts46=True).decode()
    except ValueError as error:  # of idna, too
        raise FetchError(url, "it is no address") from error
    user, at, _ = parts.netloc.rpartition("@")
    netloc = f"{user}{at}{host}" + ("" if port is None else f":{port}")
    return urlunsplit(parts._replace(netloc=netloc))


def _check(at: str, asked: str) -> None:
    """Raise FetchError where an address is no plain one of http or https."""
    via = "" if at == asked else f" (redirected from {shown_url(asked)})"
    if len(at) > _MAX_URL_CHARACTERS:
        raise FetchError(at, f"the address has more than {_MAX_URL_CHARACTERS} characters{via}")
    try:
        parts = urlsplit(at)
        port = parts.port
    except ValueError:
        raise FetchError(at, f"it is no address{via}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(at, f"only addresses that begin with http:// or https:// are read{via}")
    if parts.username is not None or parts.password is not None:
        raise FetchError(at, f"an address with a user name is not read{via}")
    if port is not None and port not in (80, 443) and port < _FIRST_FREE_PORT:
        raise FetchError(at, f"its port belongs to another protocol{via}")


def _target(answer: httpcore.Response, at: str, expected: Collection[int]) -> str | None:
    """Where the answer redirects to; None where it is the file; raises FetchError for an error."""
    if answer.status in _MOVED:
        location = header_of(answer, b"location")
        if not location:
            raise FetchError(at, f"the server answers {answer.status} without an address")
        try:
            return urljoin(at, location).partition("#")[0]
        except ValueError:
            raise FetchError(at, "the server redirects to what is no address") from None
    if answer.status not in expected:
        may_pass = answer.status in _PASSING
        raise FetchError(at, f"the server answers {answer.status}", may_pass=may_pass)
    return None


def _kept(
    answer: httpcore.Response, at: str, to: Path, limits: FetchLimits, stopping: threading.Event
) -> Fetched:
    """Write the body of an answer."""
    too_large = f"it is larger than {limits.max_bytes:,} bytes"
    encoding = header_of(answer, b"content-encoding").lower()
    if encoding not in ("", "identity"):
        raise FetchError(at, f"the server sends it compressed ({encoding[:20]})")
    declared = length_of(answer)
    if declared is not None and declared > limits.max_bytes:
        raise FetchError(at, too_large)
    size_bytes = 0
    with to.open("wb") as file:
        for chunk in answer.iter_stream():
            if stopping.is_set():
                raise FetchError(at, "the download was stopped", may_pass=True)
            size_bytes += len(chunk)
            if size_bytes > limits.max_bytes:
                raise FetchError(at, too_large)
            file.write(chunk)
    if declared is not None and declared != size_bytes:
        raise FetchError(at, f"{size_bytes:,} of {declared} bytes came", may_pass=True)
    if size_bytes == 0:
        raise FetchError(at, "it is empty")
    content_type = header_of(answer, b"content-type").partition(";")[0].strip().lower()
    return Fetched(url=at, size_bytes=size_bytes, content_type=content_type)


def header_of(answer: httpcore.Response, name: bytes) -> str:
    """A header of an answer, by its name in lower case; empty where there is none."""
    found = (value for key, value in answer.headers if key.lower() == name)
    return next(found, b"").decode("latin-1").strip()


def length_of(answer: httpcore.Response) -> int | None:
    """The bytes that an answer says it has; None where it does not."""
    length = header_of(answer, b"content-length")
    return int(length[:18]) if length.isdecimal() else None


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Raise the errors of a connection as FetchError, with the error as its cause."""
    try:
        yield
    except (OSError, FetchError):
        raise
    except Exception as error:
        raise _as_fetch_error(url, error) from error


def _as_fetch_error(at: str, error: Exception) -> FetchError:
    """The reason in words; raises the error again where it is none of the network's."""
    match error:
        case AddressRefusedError():
            return FetchError(at, "its host has no public address, so it is not connected to")
        case NameNotFoundError():
            return FetchError(at, "its host is not known")
        case httpcore.TimeoutException():
            return FetchError(at, "it took too long", may_pass=True)
        case httpcore.ConnectError():
            if isinstance(error.__context__, ssl.SSLError):
                return FetchError(at, "its certificate is not trusted")
            return FetchError(at, "its host cannot be connected to", may_pass=True)
        case httpcore.NetworkError() | httpcore.ProtocolError():
            return FetchError(at, "the connection broke, or the answer is no HTTP", may_pass=True)
        case _:
            raise error


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Trusts SSL_CERT_FILE, or else the certificates of certifi, as httpx does."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
