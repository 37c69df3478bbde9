"""A request's body on disk: memory holds only the part that is arriving."""

import asyncio
import codecs
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Final, cast

from fastapi import Request

from services.api.errors import BodyTooLargeError, BodyTooSlowError
from services.api.json_body import not_utf_8
from services.api.service import Service

IN_MEMORY_BYTES: Final = 64 << 10
"""A body up to this size does not go to the disk."""
DRAIN_BYTES: Final = 64 << 20
"""A body that is too long is read up to this length: a client that is still sending would see a
reset connection instead of the response."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpooledBody:
    """A whole body, ready to be read from its beginning."""

    file: BinaryIO
    size_bytes: int
    fingerprint: str
    """SHA-256 of the body."""


@contextlib.asynccontextmanager
async def spooled_body(
    request: Request, limit_bytes: int, tenant_id: str
) -> AsyncIterator[SpooledBody]:
    """Receive the body; a long one has one of the tenant's places until the context ends.

    Raises BodyTooLargeError, BodyTooSlowError, RateLimitedError, and InvalidJsonError where the
    body is not UTF-8.
    """
    service: Service = request.app.state.service
    within_s = service.settings.http.whole_body_s
    async with contextlib.AsyncExitStack() as place:
        if not _is_short(request):
            await place.enter_async_context(service.places.bodies.one_for(tenant_id))
        with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as file:
            try:
                async with asyncio.timeout(within_s):
                    body = await _receive(request, cast(BinaryIO, file), limit_bytes)
            except TimeoutError:
                raise BodyTooSlowError(f"The body did not arrive within {within_s:g} s.") from None
            yield body


def _is_short(request: Request) -> bool:
    if "transfer-encoding" in request.headers:
        return False
    length = request.headers.get("content-length", "0")
    return length.isdecimal() and int(length) <= IN_MEMORY_BYTES


async def _receive(request: Request, file: BinaryIO, limit_bytes: int) -> SpooledBody:
    digest = hashlib.sha256()
    text = codecs.getincrementaldecoder("utf-8")()
    bad_byte: int | None = None
    size_bytes = 0
    async for chunk in request.stream():
        if size_bytes + len(chunk) <= limit_bytes and bad_byte is None:
            digest.update(chunk)
            file.write(chunk)
            waiting_bytes = len(text.getstate()[0])
            try:
                text.decode(chunk)
            except UnicodeDecodeError as error:
                bad_byte = size_bytes - waiting_bytes + error.start
        size_bytes += len(chunk)
        if size_bytes > DRAIN_BYTES:
            break
    if size_bytes > limit_bytes:
        raise BodyTooLargeError(limit_bytes=limit_bytes)
    if bad_byte is None and text.getstate()[0]:
        bad_byte = size_bytes - len(text.getstate()[0])
    if bad_byte is not None:
        raise not_utf_8(bad_byte)
    file.seek(0)
    return SpooledBody(file=file, size_bytes=size_bytes, fingerprint=digest.hexdigest())
