"""What a run's training processes print, as JSON."""

from datetime import datetime
from typing import Literal

from services.api.shapes import Shape


class LogPiece(Shape):
    """Some lines of a run's log. Bytes are counted over the output of all its attempts.

    Where bytes before a piece are left out, its text begins with a line that says how many.
    """

    object: Literal["log_piece"] = "log_piece"
    attempt: int
    """The fence of the attempt."""
    start_byte: int
    end_byte: int
    """``after`` of the request for what follows."""
    text: str
    created_at: datetime
