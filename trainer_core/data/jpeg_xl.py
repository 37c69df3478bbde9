"""The size of a JPEG XL picture from its first bytes.

The decoder of JPEG XL decodes a file as soon as it is opened, and a file of a few bytes may claim a
gigapixel. So the size is read before.

Source: ISO/IEC 18181-1 (codestream, annex D: SizeHeader) and 18181-2 (boxes of the container).
"""

from typing import BinaryIO, Final

_CODESTREAM: Final = b"\xff\x0a"
_CONTAINER: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER_BYTES: Final = 16
_MOST_BOXES: Final = 1000
_SIDE_BITS: Final = (9, 13, 18, 30)
"""By the selector before a side: the bits that it has, less one pixel."""
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height, of the ratios 1 to 7 that a header may name in place of the width."""


def is_jpeg_xl(head: bytes) -> bool:
    """Whether a file begins like a JPEG XL picture; ``head``: its first 12 bytes."""
    return head.startswith((_CODESTREAM, _CONTAINER))


def size_of_jpeg_xl(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height in pixels, before any turn; None where the file does not tell."""
    file.seek(0)
    head = file.read(len(_CONTAINER))
    if head.startswith(_CODESTREAM):
        file.seek(0)
        return _size_in(file.read(_HEADER_BYTES))
    return _size_in(_codestream_in(file)) if head == _CONTAINER else None


def _codestream_in(file: BinaryIO) -> bytes:
    """The first bytes of the codestream in a container; empty where there is none."""
    start = 0
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            break
        size, kind, body = int.from_bytes(head[:4]), head[4:8], 8
        if size == 1:
            size, body = int.from_bytes(head[8:]), 16
        if kind in (b"jxlc", b"jxlp"):
            file.seek(start + body + 4 * (kind == b"jxlp"))  # a part has its number first
            return file.read(_HEADER_BYTES)
        if size < body:  # 0: the box goes on to the end of the file
            break
        start += size
    return b""


def _size_in(head: bytes) -> tuple[int, int] | None:
    """The size in the first bytes of a codestream; None where they are cut off or no codestream."""
    if len(head) < 12 or not head.startswith(_CODESTREAM):
        return None
    rest = int.from_bytes(head[len(_CODESTREAM) :], "little")

    def take(bits: int) -> int:
        nonlocal rest
        value, rest = rest & ((1 << bits) - 1), rest >> bits
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_SIDE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height
