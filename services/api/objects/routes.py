"""/objects/…: the folder store's signed URLs. The signature gives access; no API key is needed."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, Final, TypeVar

import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from services.api.errors import BodyMismatchError, SignatureRefusedError
from services.api.head_routes import HeadRoute
from services.api.objects.ranges import select
from services.domain.errors import NotFoundError
from services.objects.errors import (
    BadSignatureError,
    InvalidKeyError,
    ObjectCorruptError,
    ObjectMissingError,
)
from services.objects.folder_store import FolderStore
from services.objects.local_files import COPY_BYTES
from services.objects.port import attached
from services.objects.signing import SignedGrant

T = TypeVar("T")

_MEDIA_TYPE: Final = "application/octet-stream"
_CHUNK_WITHIN_S: Final = 30.0
_CONCURRENT_UPLOADS: Final = 16
"""Uploads have threads of their own, so that slow senders do not occupy those of other routes."""


def objects_router(store: FolderStore) -> APIRouter:
    """Routes over this store. Only the folder store needs them: S3 serves its own URLs."""
    router = APIRouter(tags=["objects"], include_in_schema=False, route_class=HeadRoute)
    uploads = anyio.CapacityLimiter(_CONCURRENT_UPLOADS)

    @router.put("/objects/{key:path}")
    async def put_object(key: str, request: Request) -> Response:
        """Store the body; 400 where its length or SHA-256 differs from the signed one."""
        grant = _grant(store, request, key, "PUT")
        if grant.size_bytes is None or grant.sha256 is None:
            raise BodyMismatchError("The URL names no length and no SHA-256.")
        size_bytes, sha256 = grant.size_bytes, grant.sha256
        body = request.stream()

        def receive() -> None:
            chunks = _chunks(body)
            if grant.part is None:
                store.receive(key, chunks, size_bytes=size_bytes, sha256=sha256)
            else:
                store.parts.receive(key, grant.part, chunks, size_bytes=size_bytes, sha256=sha256)

        try:
            await _in_thread(receive, uploads)
        except ObjectCorruptError as error:
            raise BodyMismatchError(str(error)) from error
        except ObjectMissingError:
            raise NotFoundError("upload", key) from None
        return Response(status_code=200)

    @router.get("/objects/{key:path}")
    def get_object(key: str, request: Request) -> Response:
        """The object as a download, or a range of it (``ranges.select``)."""
        is_head = request.method == "HEAD"
        signed = request.query_params.get("method")
        _grant(store, request, key, "HEAD" if is_head and signed == "HEAD" else "GET")
        try:
            source = store.open_read(key)
        except ObjectMissingError:
            raise NotFoundError("object", key) from None
        selected = select(request.headers, os.fstat(source.fileno()))
        headers = {
            **selected.headers,
            "Content-Disposition": attached(key.rpartition("/")[2]),
            "Cache-Control": "private, no-store",
        }
        if selected.status in {200, 206}:
            headers["Content-Length"] = str(selected.num_bytes)
        if is_head or not selected.num_bytes:
            source.close()
            return Response(status_code=selected.status, headers=headers, media_type=_MEDIA_TYPE)
        source.seek(selected.start_byte)
        return StreamingResponse(
            _pieces(source, selected.num_bytes),
            status_code=selected.status,
            headers=headers,
            media_type=_MEDIA_TYPE,
        )

    return router


def _grant(store: FolderStore, request: Request, key: str, method: str) -> SignedGrant:
    """The verified grant of a signed URL; raises SignatureRefusedError and NotFoundError."""
    try:
        return store.verify(key, request.query_params, method)
    except BadSignatureError as error:
        raise SignatureRefusedError(f"{error}.") from None
    except InvalidKeyError:
        raise NotFoundError("object", key[:200]) from None


async def _in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    return await anyio.to_thread.run_sync(work, limiter=limiter)


def _chunks(body: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The body as a blocking iterator for the writing thread; holds one chunk at a time."""

    async def next_chunk() -> bytes | None:
        try:
            with anyio.fail_after(_CHUNK_WITHIN_S):
                return await anext(body)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            # A sender that stalls would keep one of the few threads.
            raise BodyMismatchError(f"No bytes arrived for {_CHUNK_WITHIN_S:g} s.") from None

    while (chunk := anyio.from_thread.run(next_chunk)) is not None:
        yield chunk


def _pieces(source: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    with source:
        while num_bytes and (piece := source.read(min(COPY_BYTES, num_bytes))):
            num_bytes -= len(piece)
            yield piece
