"""Reads a growing output file in pieces that end with a line, and leaves out what is too much.

Memory holds one piece. The first LOG_FIRST_BYTES are read in order; after them the reader never
falls more than LOG_NEWEST_BYTES behind the end. The disk space of what was read, or is left out,
is freed.
"""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from services.domain.ledger import LOG_FIRST_BYTES, LOG_NEWEST_BYTES, LOG_PIECE_BYTES, Printed
from services.processes.holes import free_space

_KEPT_BYTES: Final = LOG_PIECE_BYTES
"""Before what is read next; the operator's log quotes the end of the file."""


class OutputPieces:
    """A file that a process appends to, from its start to its end."""

    def __init__(self, path: Path, clean: Callable[[str], str]) -> None:
        """
        Args:
            path: need not exist yet.
            clean: removes what must not be in a log from a piece of text.
        """
        self._path = path
        self._clean = clean
        self._start_byte = 0

    def next(self, *, is_complete: bool) -> Printed | None:
        """The next piece; None where no further line is complete, or the file is at its end.

        Args:
            is_complete: nothing more is appended, so the last line may lack its end.

        Raises OSError.
        """
        try:
            file = self._path.open("r+b")
        except FileNotFoundError:
            return None
        with file:
            size_bytes = file.seek(0, 2)
            self._leave_out(file, size_bytes)
            file.seek(self._start_byte)
            body = file.read(LOG_PIECE_BYTES)
        is_last = is_complete and self._start_byte + len(body) >= size_bytes
        num_bytes = _length(body, is_last=is_last)
        if not num_bytes:
            return None
        text = body[:num_bytes].decode(errors="replace").replace("\0", "")
        printed = Printed(start_byte=self._start_byte, num_bytes=num_bytes, text=self._clean(text))
        self._start_byte += num_bytes
        return printed

    def _leave_out(self, file: BinaryIO, size_bytes: int) -> None:
        newest = size_bytes - LOG_NEWEST_BYTES
        if self._start_byte < newest and self._start_byte >= LOG_FIRST_BYTES:
            file.seek(newest)
            line_end = file.read(LOG_PIECE_BYTES).find(b"\n")
            self._start_byte = newest + line_end + 1
        free_space(file, 0, self._start_byte - _KEPT_BYTES)
        free_space(file, LOG_FIRST_BYTES + _KEPT_BYTES, newest)


def _length(body: bytes, *, is_last: bool) -> int:
    """How much of the bytes is the next piece: whole lines, or a part of a line that is too long.

    The part ends at a space, so that no word is torn, or at least with a whole character.
    """
    if is_last:
        return len(body)
    lines = max(body.rfind(b"\n"), body.rfind(b"\r")) + 1  # a progress bar ends lines with \r
    if lines or len(body) < LOG_PIECE_BYTES:
        return lines
    if words := body.rfind(b" ") + 1:
        return words
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(body)
    return len(body) - len(decoder.getstate()[0])
