"""Which files are sent in parts, and how long their parts are.

An image has at most 100 MiB and 7 parts, an adapter 2 GiB and 128 parts. After an interruption at
most one part is sent again: 13 s at 10 Mbit/s. S3 takes parts of 5 MiB to 5 GiB, and 10,000 of
them.
"""

from typing import Final

PART_BYTES: Final = 16 << 20
WHOLE_BYTES: Final = 32 << 20
"""A file up to this size is sent as a whole."""
UPLOAD_EXPIRES_S: Final = 3600
"""Of a signed PUT, of a file or of a part."""


def part_sizes(size_bytes: int) -> list[int]:
    """The lengths of a file's parts in order; none where it is sent as a whole."""
    if size_bytes <= WHOLE_BYTES:
        return []
    whole, rest = divmod(size_bytes, PART_BYTES)
    return [PART_BYTES] * whole + ([rest] if rest else [])
