"""What is refused at the head of a request, beyond what llhttp refuses.

Two servers that read one request differently let a client smuggle a second one past the first. So
whatever can be read in two ways is refused. llhttp refuses a Content-Length beside a
Transfer-Encoding, a second Content-Length, folded lines, line ends without CR, control characters,
spaces before a colon, and chunks that are not exact.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

RETRY_AFTER_S: Final = 2
"""Where the service itself cannot take a request now."""
MAX_FIELDS: Final = 100
MAX_FIELDS_BYTES: Final = 16 << 10
MAX_TARGET_BYTES: Final = 8 << 10

_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is not read on; the connection is closed after it."""

    status: int
    code: str
    detail: str
    retryable: bool = False


BAD_REQUEST: Final = Refusal(400, "bad_request", "The request is not valid HTTP/1.1.")
TARGET_TOO_LONG: Final = Refusal(
    414, "uri_too_long", f"The address is longer than {MAX_TARGET_BYTES} bytes."
)
HEAD_TOO_LARGE: Final = Refusal(
    431,
    "headers_too_large",
    f"The request has more than {MAX_FIELDS} header fields or {MAX_FIELDS_BYTES} bytes of them.",
)
TOO_SLOW: Final = Refusal(
    408, "request_timeout", "The request did not arrive in time.", retryable=True
)
SERVER_FULL: Final = Refusal(
    503, "too_many_connections", "The service has too many connections.", retryable=True
)
CLIENT_FULL: Final = Refusal(
    429, "too_many_connections", "This address has too many connections.", retryable=True
)


def refusal_of_head(
    version: str, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> Refusal | None:
    """The reason to refuse a head that was read without error; ``fields`` has lower-case names."""
    return next(_refusals(version, target, fields), None)


def _refusals(
    version: str, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> Iterator[Refusal]:
    if version not in ("1.0", "1.1"):
        yield Refusal(505, "http_version", "The service speaks HTTP/1.1.")
    if not target.startswith(b"/") or b"#" in target:
        yield _bad("The address of a request has to begin with a slash, and has no fragment.")
    if not target.isascii():
        yield _bad("The address has bytes beyond ASCII: percent-encode them.")
    hosts = _values(fields, b"host")
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        yield _bad("A request has one Host header.")
    if any(_HOST.fullmatch(each) is None for each in hosts):
        yield _bad("The Host header is not a host.")
    codings = _values(fields, b"transfer-encoding")
    if codings and (version == "1.0" or [each.lower() for each in codings] != [b"chunked"]):
        yield _bad("The only Transfer-Encoding of a request is chunked, in HTTP/1.1.")
    if any(each.lower() != b"100-continue" for each in _values(fields, b"expect")):
        yield Refusal(417, "expectation_failed", "The service knows Expect: 100-continue only.")


def _bad(detail: str) -> Refusal:
    return Refusal(BAD_REQUEST.status, BAD_REQUEST.code, detail)


def _values(fields: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for each, value in fields if each == name]
