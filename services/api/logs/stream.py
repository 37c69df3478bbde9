"""A run's log as server-sent events; the id of a piece is the byte at which it ends."""

from collections.abc import Sequence
from typing import Final

from services.api.logs.presenting import piece_shapes
from services.api.logs.shapes import LogPiece
from services.api.service import Service
from services.store import run_logs, runs

_BATCH: Final = 16


class LogSource:
    """The pieces of a log without gap or duplicate, until the run is over and all are read."""

    def __init__(
        self,
        service: Service,
        tenant_id: str,
        run_id: str,
        after_byte: int,
        first: Sequence[LogPiece],
    ) -> None:
        """
        Args:
            after_byte: where the client's text ends.
            first: pieces that are sent before those that are read; the last one ends there.
        """
        self._service = service
        self._tenant_id = tenant_id
        self._run_id = run_id
        self._after_byte = after_byte
        self._first = first

    def read(self) -> tuple[list[str], bool]:
        """The next pieces, encoded, and whether no more will follow."""
        if self._first:
            messages, self._first = [encoded(piece) for piece in self._first], ()
            return messages, False
        with self._service.database.transaction(self._tenant_id) as conn:
            is_over = runs.get(conn, self._tenant_id, self._run_id).is_over
            rows = run_logs.page(conn, self._tenant_id, self._run_id, self._after_byte, _BATCH)
        pieces = piece_shapes(rows, self._after_byte)
        if pieces:
            self._after_byte = pieces[-1].end_byte
        return [encoded(piece) for piece in pieces], is_over and not pieces


def encoded(piece: LogPiece) -> str:
    """One piece in the text format of server-sent events (WHATWG HTML, 9.2)."""
    return f"id: {piece.end_byte}\nevent: log\ndata: {piece.model_dump_json()}\n\n"
