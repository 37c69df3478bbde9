"""What keeps long lists of files from slowing down other requests: few are at work at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from anyio import CapacityLimiter

from services.api.places import Places

LISTS_AT_WORK: Final = 2
"""Each uses a connection to the database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedList:
    """A list without mistakes; its files are in a file of their own."""

    name: str | None
    """None: that of the dataset that it is based on."""
    size_bytes: int
    """Of all files that are listed."""
    based_on: str | None
    """None: it takes no files over from another dataset."""
    source: dict[str, Any] | None = None
    """A data backend that the service fetches the files from; None: they are uploaded."""
    csv: str | None = None
    """The content of the source's list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LongLists:
    """The limits of one process."""

    check: Callable[[BinaryIO, BinaryIO], CheckedList]
    """``check_list``, in a process of its own where there is one."""
    places: Places = field(default_factory=lambda: Places(total=8, per_owner=2, wait_s=30))
    """Once the body is there."""
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LISTS_AT_WORK))
    """For checking and storing: while one list is checked, another one is stored."""
