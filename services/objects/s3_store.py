"""The object store as an S3 bucket, through boto3."""

import base64
import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectTooBigError,
)
from services.objects.keys import check_key, check_prefix
from services.objects.local_files import COPY_BYTES, appearing_whole, pieces_of
from services.objects.port import SignedRequest, attached
from services.objects.probing import prove_conditional_writes
from services.objects.s3_errors import status_of, translated
from services.objects.s3_parts import S3Parts
from services.objects.s3_signing import sign_put

_CONFIG: Final = {
    "signature_version": "s3v4",
    "connect_timeout": 5,
    "read_timeout": 60,
    # Only botocore retries single requests; callers repeat their whole operation later.
    "retries": {"mode": "standard", "max_attempts": 3},
    "max_pool_connections": 32,  # the threads of a trainer that fetch and upload, and the API's
    # Ranged reads of some stores carry the checksum of the whole object; we check SHA-256 anyway.
    "response_checksum_validation": "when_required",
}
_TRANSFER: Final = {
    "multipart_threshold": 64 << 20,
    "multipart_chunksize": 64 << 20,  # S3 allows 10,000 parts: objects up to 640 GB
    "max_concurrency": 4,
}
_CONFLICT_ATTEMPTS: Final = 6
_CONFLICT_WAIT_S: Final = 0.2


class S3Store:
    """An ``ObjectStore`` over one bucket; credentials come from the standard AWS_* variables."""

    def __init__(self, bucket: str, *, endpoint: str | None, region: str | None) -> None:
        self._bucket = bucket
        self._region = region or "us-east-1"
        self._session = boto3.Session(region_name=self._region)
        # A self-hosted store rarely has a DNS name for every bucket.
        config = Config(s3={"addressing_style": "path" if endpoint else "auto"}, **_CONFIG)
        self._client: Any = self._session.client("s3", endpoint_url=endpoint, config=config)
        self._transfer = TransferConfig(**_TRANSFER)
        bare = config.merge(Config(request_checksum_calculation="when_required"))
        self.parts = S3Parts(
            self._session,
            self._session.client("s3", endpoint_url=endpoint, config=bare),
            bucket,
            region=self._region,
            url_of=self._object_url,
        )

    def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        with path.open("rb") as source, translated(key):
            self._client.upload_fileobj(source, self._bucket, key, Config=self._transfer)

    def put_bytes(self, key: str, body: bytes) -> None:
        check_key(key)
        with translated(key):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    def get_bytes(self, key: str, *, limit_bytes: int) -> bytes:
        check_key(key)
        with translated(key), self._open(key) as source:
            body: bytes = source.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise ObjectTooBigError(key, limit_bytes=limit_bytes)
        return body

    def get_first(self, key: str, num_bytes: int) -> bytes:
        check_key(key)
        with translated(key):
            try:
                with self._open(key, Range=f"bytes=0-{num_bytes - 1}") as source:
                    return bytes(source.read(num_bytes))
            except ClientError as error:
                if status_of(error) == 416:  # an empty object has no first byte
                    return b""
                raise

    @contextlib.contextmanager
    def open_range(self, key: str, *, start: int, size_bytes: int) -> Iterator[Iterator[bytes]]:
        check_key(key)
        ends = f"bytes={start}-{start + size_bytes - 1}"
        with translated(key), contextlib.ExitStack() as stack:
            try:
                source = stack.enter_context(self._open(key, Range=ends))
            except ClientError as error:
                if status_of(error) != 416:  # the object ends before
                    raise
                yield iter(())
            else:
                yield pieces_of(source, size_bytes)

    def get_to(self, key: str, path: Path) -> None:
        check_key(key)
        with appearing_whole(path) as target, translated(key):
            if (self.size(key) or 0) < _TRANSFER["multipart_threshold"]:
                with self._open(key) as source:
                    shutil.copyfileobj(source, target, COPY_BYTES)
            else:
                self._client.download_fileobj(self._bucket, key, target, Config=self._transfer)

    def size(self, key: str) -> int | None:
        check_key(key)
        try:
            with translated(key):
                head = self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            return None
        return int(head["ContentLength"])

    def commit_once(self, key: str, body: bytes) -> bool:
        """Create the object unless one exists; True where the object now has these bytes.

        A reply may be lost after S3 has stored the object, and botocore's retry then meets 412. So
        412 does not say who wrote the object: read it and compare. 409 says that another
        conditional write is in progress, perhaps one that will fail: put again.
        """
        check_key(key)
        for attempt in range(_CONFLICT_ATTEMPTS):
            with translated(key):
                status = self._put_if_absent(key, body)
            if status == 200:
                return True
            if status == 412:
                with (
                    contextlib.suppress(ObjectMissingError),
                    translated(key),
                    self._open(key) as existing,
                ):
                    return bool(existing.read(len(body) + 1) == body)
            time.sleep(random.uniform(0.5, 1) * _CONFLICT_WAIT_S * 2**attempt)  # noqa: S311
        raise ObjectStoreDownError(f"{key}: conflicting writes for {_CONFLICT_ATTEMPTS} attempts")

    def delete(self, key: str) -> None:
        check_key(key)
        with translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def list_keys(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        with translated(prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                yield from (each["Key"] for each in page.get("Contents", ()))

    def sign_put(self, key: str, *, size_bytes: int, sha256: str, expires_s: int) -> SignedRequest:
        check_key(key)
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()  # AWS looks at it, too
        with translated(key):
            return sign_put(
                self._session,
                self._object_url(key),
                region=self._region,
                size_bytes=size_bytes,
                sha256=sha256,
                expires_s=expires_s,
                headers={"x-amz-checksum-sha256": checksum},
            )

    def sign_get(self, key: str, *, expires_s: int) -> str:
        name = key.rpartition("/")[2]
        return self._signed("get_object", key, expires_s, ResponseContentDisposition=attached(name))

    def sign_head(self, key: str, *, expires_s: int) -> str:
        return self._signed("head_object", key, expires_s)

    def prove_conditional_writes(self) -> None:
        # In a versioned bucket Ceph RGW lets every conditional write through.
        prove_conditional_writes(
            self, f"bucket {self._bucket} ignores If-None-Match on PUT (is it versioned?)"
        )

    def _put_if_absent(self, key: str, body: bytes) -> int:
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            status = status_of(error)
            if status not in (409, 412):
                raise
            return status
        return 200

    def _open(self, key: str, **more: str) -> Any:
        """The object's body as a stream, which the caller closes."""
        body = self._client.get_object(Bucket=self._bucket, Key=key, **more)["Body"]
        return contextlib.closing(body)

    def _signed(self, operation: str, key: str, expires_s: int, **more: str) -> str:
        check_key(key)
        with translated(key):
            return str(
                self._client.generate_presigned_url(
                    operation,
                    Params={"Bucket": self._bucket, "Key": key, **more},
                    ExpiresIn=expires_s,
                )
            )

    def _object_url(self, key: str) -> str:
        """The object's address as botocore resolves it (endpoint, region, addressing style)."""
        return self.sign_get(key, expires_s=1).partition("?")[0]
