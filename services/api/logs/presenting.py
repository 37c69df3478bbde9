"""Rows of a log as the shapes that tenants see."""

from collections.abc import Sequence
from typing import Final

from services.api.logs.shapes import LogPiece
from services.api.shapes import in_utc
from services.store.run_logs import LogPiece as LogRow

_LINE_END: Final = "\n"


def piece_shapes(rows: Sequence[LogRow], after_byte: int) -> list[LogPiece]:
    """The pieces, oldest first; ``after_byte`` is where the reader's text ends."""
    pieces = []
    for row in rows:
        left_out = row.start_byte - after_byte
        gap = f"[{left_out:,} bytes are left out here]{_LINE_END}" if left_out > 0 else ""
        pieces.append(_shape(row, gap + row.text))
        after_byte = row.end_byte
    return pieces


def last_lines(rows: Sequence[LogRow], count: int) -> list[LogPiece]:
    """The pieces with the last ``count`` lines; the first one's text begins with the first line."""
    if not rows:
        return []
    pieces = piece_shapes(rows, rows[0].start_byte)
    for number, piece in reversed(list(enumerate(pieces))):
        lines = piece.text.splitlines(keepends=True)
        if len(lines) >= count:
            text = "".join(lines[len(lines) - count :])
            return [piece.model_copy(update={"text": text}), *pieces[number + 1 :]]
        count -= len(lines)
    return pieces


def _shape(row: LogRow, text: str) -> LogPiece:
    return LogPiece(
        attempt=row.fence,
        start_byte=row.start_byte,
        end_byte=row.end_byte,
        text=text,
        created_at=in_utc(row.created_at),
    )
