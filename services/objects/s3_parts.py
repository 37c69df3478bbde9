"""Uploads in parts to an S3 bucket: its multipart uploads."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import boto3
from botocore.exceptions import ClientError

from services.objects.errors import ObjectMissingError
from services.objects.keys import check_key, check_prefix
from services.objects.port import SignedRequest
from services.objects.s3_errors import status_of, translated
from services.objects.s3_signing import sign_put


class S3Parts:
    """A ``PartUploads`` over one bucket."""

    def __init__(
        self,
        session: boto3.Session,
        client: Any,
        bucket: str,
        *,
        region: str,
        url_of: Callable[[str], str],
    ) -> None:
        """``client`` adds no checksums of its own: clients that send parts would have to, too."""
        self._session = session
        self._client = client
        self._bucket = bucket
        self._region = region
        self._url_of = url_of

    def begin(self, key: str) -> str:
        check_key(key)
        with translated(key):
            found = self._uploads_of(key)
            if not found:
                begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
                found = self._uploads_of(key)  # two may have begun at once
                if not found:  # whoever finished the object at the same time has ended this one
                    return str(begun["UploadId"])
        oldest = min(found, key=lambda upload: (upload["Initiated"], upload["UploadId"]))
        return str(oldest["UploadId"])

    def sizes(self, key: str, upload_id: str) -> dict[int, int]:
        return {part["PartNumber"]: part["Size"] for part in self._parts(key, upload_id)}

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
        check_key(key)
        with translated(key):
            return sign_put(
                self._session,
                f"{self._url_of(key)}?{urlencode({'partNumber': number, 'uploadId': upload_id})}",
                region=self._region,
                size_bytes=size_bytes,
                sha256=sha256,
                expires_s=expires_s,
                headers={},
            )

    def finish(self, key: str, upload_id: str) -> None:
        parts = [
            {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
            for part in self._parts(key, upload_id)
        ]
        if parts:
            with translated(key):
                self._complete(key, upload_id, parts)
        self.drop(key)  # what began at the same time, and is not needed

    def keys(self, prefix: str) -> set[str]:
        check_prefix(prefix)
        with translated(prefix):
            return {upload["Key"] for upload in self._uploads(prefix)}

    def drop(self, key: str) -> int:
        check_key(key)
        with translated(key):
            found = self._uploads_of(key)
            for upload in found:
                self._abort(upload)
        return len(found)

    def abort(self, prefix: str, *, older_than: timedelta) -> int:
        check_prefix(prefix)
        with translated(prefix):
            now = datetime.now(UTC)
            old = [each for each in self._uploads(prefix) if now - each["Initiated"] >= older_than]
            for upload in old:
                self._abort(upload)
        return len(old)

    def _complete(self, key: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",  # Ceph RGW 16.2 does not look at it here
            )
        except ClientError as error:
            # Another upload of this key was first, or another request has finished this one.
            is_over = error.response["Error"].get("Code") == "NoSuchUpload"
            if not is_over and status_of(error) != 412:
                raise

    def _parts(self, key: str, upload_id: str) -> list[dict[str, Any]]:
        check_key(key)
        pages = self._client.get_paginator("list_parts")
        try:
            with translated(key):
                return [
                    part
                    for page in pages.paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
                    for part in page.get("Parts", ())
                ]
        except ObjectMissingError:
            return []

    def _uploads_of(self, key: str) -> list[dict[str, Any]]:
        return [upload for upload in self._uploads(key) if upload["Key"] == key]

    def _uploads(self, prefix: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("list_multipart_uploads")
        return [
            upload
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix)
            for upload in page.get("Uploads", ())
        ]

    def _abort(self, upload: dict[str, Any]) -> None:
        try:
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        except ClientError as error:
            if status_of(error) != 404:  # it has ended meanwhile
                raise
