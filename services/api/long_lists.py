"""What keeps long lists of files from slowing down other requests: few are at work at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from anyio import CapacityLimiter

from services.api.places import Places


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedList:
    """A list without mistakes; its files are in a file of their own."""

    name: str
    size_bytes: int
    """Of all files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LongLists:
    """The limits of one process."""

    check: Callable[[BinaryIO, BinaryIO], CheckedList]
    """``check_list``, in a process of its own where there is one."""
    places: Places = field(default_factory=lambda: Places(total=8, per_tenant=2, wait_s=30))
    """From the first byte of the body to the answer."""
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    """For checking and storing: while one list is checked, another one is stored."""
