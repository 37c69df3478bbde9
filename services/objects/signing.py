"""URLs signed with HMAC-SHA256 for the folder store, as presigned URLs are for S3.

The signature covers method, key, expiry, length and SHA-256. A URL for an upload therefore accepts
exactly those bytes under exactly that key.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from services.objects.errors import BadSignatureError
from services.objects.keys import check_key


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedGrant:
    """What a signed URL allows."""

    size_bytes: int | None
    """Length that a PUT must have; None for a GET."""
    sha256: str | None
    """Digest that the body of a PUT must have; None for a GET."""
    part: "UploadPart | None" = None
    """Where the body is a part of an object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadPart:
    """A part of an object that is sent in parts."""

    upload_id: str
    number: int
    """From 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlSigner:
    """Makes URLs that the API's ``/objects/`` route serves."""

    api_url: str
    """Public base URL, without a slash at its end."""
    signing_key: bytes

    def url(
        self,
        key: str,
        *,
        method: str,
        expires_at: datetime,
        size_bytes: int | None = None,
        sha256: str | None = None,
        part: UploadPart | None = None,
    ) -> str:
        """The signed URL; length, digest and part are for PUT."""
        terms = {
            "expires": str(int(expires_at.timestamp())),
            "method": method,
            "size": "" if size_bytes is None else str(size_bytes),
            "sha256": sha256 or "",
        }
        if part is not None:
            terms |= {"upload": part.upload_id, "part": str(part.number)}
        terms["signature"] = _signature(key, terms, self.signing_key)
        return f"{self.api_url}/objects/{quote(key)}?{urlencode(terms)}"


def verify_signed(
    key: str, query: Mapping[str, str], signing_key: bytes, now: datetime, method: str
) -> SignedGrant:
    """What this URL allows.

    Raises:
        BadSignatureError: the URL was altered, has expired, or is for another method or key.
        InvalidKeyError: the key is not one of this project's.
    """
    check_key(key)
    # As bytes, because compare_digest raises TypeError for text that is not ASCII.
    given = query.get("signature", "").encode()
    if not hmac.compare_digest(_signature(key, query, signing_key).encode(), given):
        raise BadSignatureError("the signature does not match")
    if query.get("method") != method:
        raise BadSignatureError("the URL is for another method")
    if now.timestamp() >= int(query["expires"]):
        raise BadSignatureError("the URL has expired")
    size = query.get("size")  # a query parser may drop an empty value
    part = None
    if "upload" in query:
        part = UploadPart(upload_id=query["upload"], number=int(query["part"]))
    return SignedGrant(
        size_bytes=int(size) if size else None, sha256=query.get("sha256") or None, part=part
    )


def _signature(key: str, terms: Mapping[str, str], signing_key: bytes) -> str:
    # One term a line, and no line feed in a term: different terms never give the same text.
    names = [
        "expires",
        "method",
        "size",
        "sha256",
        *(["upload", "part"] if "upload" in terms else []),
    ]
    lines = [key, *(terms.get(name, "") for name in names)]
    if any("\n" in line for line in lines):
        raise BadSignatureError("a term of the URL holds a line feed")
    return hmac.new(signing_key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
