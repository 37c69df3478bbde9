"""PUTs to S3 that are bound to their bytes by signed headers.

``generate_presigned_url`` signs "any payload" and moves the checksum into the query, where Ceph RGW
does not look: it took any bytes. With the payload's own hash signed as x-amz-content-sha256, RGW
16.2 answers 400 to other bytes and 403 to another length; AWS does the same.
"""

from collections.abc import Mapping

import boto3
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from services.objects.errors import ObjectStoreRefusedError
from services.objects.port import SignedRequest


def sign_put(
    session: boto3.Session,
    url: str,
    *,
    region: str,
    size_bytes: int,
    sha256: str,
    expires_s: int,
    headers: Mapping[str, str],
) -> SignedRequest:
    """A PUT of exactly this length and SHA-256, with these headers as well."""
    sent = {"x-amz-content-sha256": sha256, **headers}
    request = AWSRequest("PUT", url, headers=dict(sent))
    request.headers["content-length"] = str(size_bytes)
    credentials = session.get_credentials()
    if credentials is None:
        raise ObjectStoreRefusedError("no credentials: AWS_ACCESS_KEY_ID is not set")
    frozen = credentials.get_frozen_credentials()
    _SignedPayload(frozen, "s3", region, expires=expires_s).add_auth(request)
    return SignedRequest(method="PUT", url=request.url, headers=sent)


class _SignedPayload(S3SigV4QueryAuth):  # type: ignore[misc]  # botocore has no types
    """Query signing over the hash of the payload; botocore's own signs "any payload"."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.headers["x-amz-content-sha256"])
