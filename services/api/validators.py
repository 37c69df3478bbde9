"""ETag of every answer to a GET, If-None-Match and If-Match (RFC 9110, 8.8.3 and 13), and Link.

An ETag names the very answer: the object's version, where it has one, and a digest of the body. The
digest is needed because parts of an object change without its version, such as a run's step.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import from_json

from services.api.errors import VersionMismatchError
from services.domain.errors import InvalidRequestError, Problem

_DIGEST_CHARACTERS: Final = 16
_TAG: Final = r'(?:W/)?"[!#-~]*"'
_TAGS: Final = rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*"


def validated(request: Request, response: Response) -> Response:
    """The answer to a GET with its ETag and, if it is a list, its links; or 304 in its place."""
    is_json = response.headers.get("Content-Type") == "application/json"
    if response.status_code != 200 or not is_json or isinstance(response, StreamingResponse):
        return response
    body = bytes(response.body)
    shown: Any = from_json(body)
    etag = _etag(body, shown)
    response.headers["ETag"] = etag
    if isinstance(shown, dict) and shown.get("object") == "list":
        response.headers.append("Link", _links(request, shown["next_cursor"]))
    if _is_known(etag, request.headers.getlist("If-None-Match")):
        kept = {
            name: response.headers[name] for name in ("ETag", "Link") if name in response.headers
        }
        return Response(status_code=304, headers=kept)
    return response


def _etag(body: bytes, shown: Any) -> str:
    digest = hashlib.sha256(body).hexdigest()[:_DIGEST_CHARACTERS]
    version = shown.get("version") if isinstance(shown, dict) else None
    return f'"{digest}"' if version is None else f'"{version}-{digest}"'


def _is_known(etag: str, fields: list[str]) -> bool:
    """Whether If-None-Match names this ETag, by weak comparison: a proxy may have weakened it."""
    text = ", ".join(fields)
    return text == "*" or etag in (tag.removeprefix("W/") for tag in re.findall(_TAG, text))


def _links(request: Request, next_cursor: str | None) -> str:
    """The first page and, where there is one, the next, with the request's own parameters."""
    first = request.url.remove_query_params("after")
    pages = {"first": first}
    if next_cursor is not None:
        pages["next"] = first.include_query_params(after=next_cursor)
    path = quote(request.url.path, safe="/:")
    return ", ".join(
        f'<{path}{"?" if url.query else ""}{url.query}>; rel="{name}"'
        for name, url in pages.items()
    )


@dataclass(frozen=True, slots=True)
class ExpectedVersion:
    """The versions that If-Match allows; None where the header is missing or ``*``."""

    versions: frozenset[str] | None

    def check(self, version: int) -> None:
        """Raise VersionMismatchError unless the object has an expected version.

        Call it in the transaction that changes the object, once its row is locked.
        """
        if self.versions is not None and str(version) not in self.versions:
            raise VersionMismatchError(version)


IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag of the object as you know it, or its version in double quotes; "
        "it is changed only if it still has this version.",
        json_schema_extra={"pattern": rf"^(?:\*|{_TAGS})$"},
    ),
]


async def expected_version(if_match: IfMatch = None) -> ExpectedVersion:
    """Dependency: what If-Match expects. Raises InvalidRequestError where it cannot be read."""
    if if_match is None or if_match == "*":
        return ExpectedVersion(None)
    if re.fullmatch(_TAGS, if_match) is None:
        message = 'If-Match takes ETags, such as "7", or *.'
        problem = Problem(pointer="header:If-Match", code="bad_value", message=message)
        raise InvalidRequestError([problem])
    strong = (tag for tag in re.findall(_TAG, if_match) if not tag.startswith("W/"))
    return ExpectedVersion(frozenset(tag.strip('"').partition("-")[0] for tag in strong))


ExpectedVersionDep = Annotated[ExpectedVersion, Depends(expected_version)]
