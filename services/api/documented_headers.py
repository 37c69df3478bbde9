"""Headers of answers in the OpenAPI document: each is described once, and named where it comes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

Json = dict[str, Any]

OF_ALL: Final = ("X-Request-Id", "Cache-Control")
OF_SUCCESSES: Final = (*OF_ALL, "RateLimit-Policy", "RateLimit")
"""And of all that comes after the key is known to be valid; other statuses may lack them."""
OF_CREATED: Final = ("Location",)
OF_KEYED: Final = ("Idempotent-Replayed", "Idempotency-Key-Missing")
"""Of successes of a request that takes an idempotency key; at most one of them comes."""
OF_JSON: Final = ("ETag",)
OF_LISTS: Final = (*OF_JSON, "Link")
OF_DEPRECATED: Final = ("Deprecation", "Sunset", "Link.deprecation")
OF_PROBLEMS: Final[Mapping[int, str]] = {
    401: "WWW-Authenticate",
    429: "Retry-After",
    503: "Retry-After",
}
"""Of problem documents of a status."""

_DESCRIBED: Final = {
    "X-Request-Id": "Quote it when you report a problem.",
    "Cache-Control": "`no-store`: answers are for this client only.",
    "RateLimit-Policy": "The policy of this request: requests (q) in seconds (w).",
    "RateLimit": "Requests that are left (r), and seconds until all are again (t).",
    "Location": "The address of the new object.",
    "Idempotent-Replayed": "`true`: it is the answer to an earlier request with the same key.",
    "Idempotency-Key-Missing": "`true`: a repetition of this request would be done again.",
    "ETag": "Names this very answer, for If-None-Match and If-Match.",
    "Link": "The `first` page and, where there is one, the `next` (RFC 8288).",
    "Deprecation": "Since when the operation is deprecated (RFC 9745).",
    "Sunset": "From when on it may be missing (RFC 8594).",
    "Link.deprecation": "`deprecation`: what to use in its place.",
    "WWW-Authenticate": "Bearer",
    "Retry-After": "Seconds to wait.",
}
_OPTIONAL: Final = ".json"
"""Ends the names of components that only answers in JSON have, where there are streams, too."""


def header_components() -> Json:
    """``components/headers``; a name before a dot is the header's."""
    optional = {f"{name}{_OPTIONAL}": _DESCRIBED[name] for name in OF_LISTS}
    return {
        name: {
            "description": words,
            "required": not name.endswith(_OPTIONAL) and name not in OF_KEYED,
            "schema": {"type": "string"},
        }
        for name, words in {**_DESCRIBED, **optional}.items()
    }


def headers(names: Iterable[str], *, are_required: bool = True) -> Json:
    """``headers`` of a response."""
    ending = "" if are_required else _OPTIONAL
    return {
        name.partition(".")[0]: {"$ref": f"#/components/headers/{name}{ending}"} for name in names
    }
