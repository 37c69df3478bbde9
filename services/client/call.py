"""One request to the service, described apart from how it is sent."""

import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from services.client.errors import ClientError
from services.client.shapes import Page

T = TypeVar("T")

MAX_PAGE: Final = 100
"""The most items that the service puts on one page, of files a thousand."""
Json = dict[str, Any]
Query = Mapping[str, str | int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read. Sending it again is safe."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: Query = field(default_factory=dict)
    """What is None is left out."""
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    waits_s: float = 0.0
    """So much longer than others the service may take for its answer."""
    is_redirected: bool = False
    """The answer is the address of something else; for other calls a redirect is an error."""
    read: Callable[[httpx.Response], T]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamCall(Generic[T]):
    """Server-sent events of a path; the id of each is larger than that of the one before."""

    path: str
    after: int
    """Only what has a larger id."""
    read: Callable[[Json], T]


def part(id_: str) -> str:
    """An id as one part of a path, with every special character escaped."""
    return quote(id_, safe="", errors="replace")


def get(path: str, query: Query | None = None) -> Call[Any]:
    """The answer is a JSON object, which is returned as it is."""
    return Call(method="GET", path=path, query=query or {}, read=json_object)


def post(
    path: str, body: Mapping[str, Any] | None = None, *, version: int | None = None
) -> Call[Any]:
    """Every try of one call sends the same Idempotency-Key, so that it happens once.

    Args:
        version: of the object as the caller knows it; the call is refused where it has another.
    """
    headers = {"Idempotency-Key": str(uuid.uuid4()), **if_match(version)}
    return Call(method="POST", path=path, body=body or {}, headers=headers, read=json_object)


def put(path: str, body: Mapping[str, Any]) -> Call[Any]:
    """The answer is a JSON object, which is returned as it is."""
    return Call(method="PUT", path=path, body=body, read=json_object)


def patch(path: str, body: Mapping[str, Any], *, version: int | None = None) -> Call[Any]:
    """What the body names is changed; the answer is the object as it is now.

    Args:
        version: as in ``post``.
    """
    headers = if_match(version)
    return Call(method="PATCH", path=path, body=body, headers=headers, read=json_object)


def delete(path: str) -> Call[None]:
    """There is no answer but the status."""
    return Call(method="DELETE", path=path, read=lambda _: None)


def delete_later(path: str, query: Query | None = None) -> Call[Any]:
    """The answer is the deletion, which goes on; sent again it is the same one."""
    return Call(method="DELETE", path=path, query=query or {}, read=json_object)


def if_match(version: int | None) -> dict[str, str]:
    """The header that lets a call change an object of this version only; None: of any."""
    return {} if version is None else {"If-Match": f'"{version}"'}


def page(
    path: str,
    query: Query,
    item: Callable[[Json], Any] | None = None,
    *,
    most: int = MAX_PAGE,
) -> Call[Any]:
    """One page of a list.

    Args:
        item: turns the JSON of an item into what is returned; None: it is returned as it is.
        most: items on a page of this list; a higher limit counts as this.
    """
    limit = min(int(query["limit"] or most), most)
    read = functools.partial(page_of, item=item)
    return Call(method="GET", path=path, query={**query, "limit": limit}, read=read)


def page_of(answer: httpx.Response, item: Callable[[Json], Any] | None = None) -> Page[Any]:
    """The page that a list answers with."""
    body = json_object(answer)
    cursor = body.get("next_cursor")
    return Page(
        data=body["data"] if item is None else [item(each) for each in body["data"]],
        has_more=bool(body.get("has_more")),
        next_cursor=None if cursor is None else str(cursor),
    )


def json_object(answer: httpx.Response) -> Any:
    """The answer's JSON object; an empty body gives an empty one. Raises ClientError."""
    if not answer.content:
        return {}
    try:
        body = answer.json()
    except ValueError as error:
        raise ClientError(
            f"{answer.request.url.path} answered with something that is not JSON; "
            "is this address the service's?"
        ) from error
    if not isinstance(body, dict):
        raise ClientError(f"{answer.request.url.path} answered with JSON that is not an object")
    return body
