"""Ids: a prefix that names the kind, then the 32 hex digits of a UUIDv7.

UUIDv7 sorts by creation time, so an index on an id stays compact. SQL, JSON, Celery messages and
object keys use the same text. Source: RFC 9562, section 5.7.
"""

import os
import re
import time
from typing import Final, Literal, get_args

Prefix = Literal[
    "run", "ds", "att", "wrk", "pub", "ten", "mem", "key", "req", "sec", "bat", "del", "wh", "whd",
    "evt",
]  # fmt: skip

_ID: Final = re.compile(rf"({'|'.join(get_args(Prefix))})_[0-9a-f]{{32}}")


def new_id(prefix: Prefix) -> str:
    """A fresh id such as ``run_0192...``; ids made later sort later (to the millisecond)."""
    unix_ms = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10))
    value = (unix_ms & (1 << 48) - 1) << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant 10
    return f"{prefix}_{value:032x}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether ``text`` is a well-formed id of this kind; it need not exist."""
    return _ID.fullmatch(text) is not None and text.startswith(f"{prefix}_")
