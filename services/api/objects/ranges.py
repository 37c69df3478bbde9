"""Conditional and partial requests for a file (RFC 9110, sections 13 and 14)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """What a GET is answered with."""

    status: int
    """200, 206, 304 or 416; with the last two the length is 0."""
    start_byte: int
    num_bytes: int
    headers: dict[str, str]


def select(headers: Mapping[str, str], facts: os.stat_result) -> Selected:
    """The part of a file that a request asks for.

    One range is honoured. Of several, and of a range of another ETag, the answer is the whole file,
    as the RFC allows.
    """
    etag, size_bytes = etag_of(facts), facts.st_size
    shown = {"ETag": etag, "Accept-Ranges": "bytes"}
    if _matches(headers.get("if-none-match"), etag):
        return Selected(status=304, start_byte=0, num_bytes=0, headers=shown)
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag or not any(found.groups()):
        return Selected(status=200, start_byte=0, num_bytes=size_bytes, headers=shown)
    first, last = found.groups()
    if not first:  # the last so many bytes
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last or size_bytes) + 1, size_bytes)
        if last and int(last) < start:  # not a range
            return Selected(status=200, start_byte=0, num_bytes=size_bytes, headers=shown)
    if start >= end:
        unsatisfied = {**shown, "Content-Range": f"bytes */{size_bytes}"}
        return Selected(status=416, start_byte=0, num_bytes=0, headers=unsatisfied)
    partial = {**shown, "Content-Range": f"bytes {start}-{end - 1}/{size_bytes}"}
    return Selected(status=206, start_byte=start, num_bytes=end - start, headers=partial)


def etag_of(facts: os.stat_result) -> str:
    """A strong ETag: objects are replaced by other files and never changed in place."""
    return f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'


def _matches(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names this ETag; weak ones are compared as strong ones."""
    if header is None:
        return False
    named = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in named or etag in named
