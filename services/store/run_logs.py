"""What the training processes of a run print, in pieces.

Bytes are counted over the output of all attempts, one after the other. Of each attempt the first
bytes and the newest ones are kept, so between two pieces there may be bytes that are left out.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.ledger import LOG_FIRST_BYTES, LOG_NEWEST_BYTES, LOG_PIECE_BYTES, Printed
from services.store.database import EVENTS, Connection, columns_of, notify
from services.store.run_rows import Run

_TAIL_PIECES: Final = 2000
_TAIL_BYTES: Final = 256 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPiece:
    """One row of ``run_logs``."""

    start_byte: int
    num_bytes: int
    fence: int
    text: str
    created_at: datetime

    @property
    def end_byte(self) -> int:
        return self.start_byte + self.num_bytes


# The output of an attempt starts where that of the attempts before ends. They write no more.
_START: Final = """
WITH started AS (
    UPDATE attempts SET log_start_byte = coalesce((
        SELECT start_byte + num_bytes FROM run_logs
        WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
        ORDER BY start_byte DESC LIMIT 1), 0)
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
        AND log_start_byte IS NULL
    RETURNING log_start_byte
)
SELECT log_start_byte FROM started
UNION ALL
SELECT log_start_byte FROM attempts
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
    AND log_start_byte IS NOT NULL
"""
_APPEND: Final = """
INSERT INTO run_logs (tenant_id, run_id, start_byte, num_bytes, fence, text)
VALUES (%(tenant_id)s, %(run_id)s, %(start_byte)s, %(num_bytes)s, %(fence)s, %(text)s)
ON CONFLICT (run_id, start_byte) DO NOTHING
RETURNING true
"""
_LEAVE_OUT: Final = """
DELETE FROM run_logs
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
    AND start_byte >= %(first_end)s AND start_byte < %(newest_start)s
    AND start_byte + num_bytes <= %(newest_start)s
"""


def append(conn: Connection, run: Run, printed: Printed) -> None:
    """Store a piece of the current attempt's output, unless it is stored; notify the listeners.

    The caller has locked the run's row, and the attempt holds the run.
    """
    facts = {"tenant_id": run.tenant_id, "run_id": run.run_id, "fence": run.fence}
    row = conn.execute(_START, facts).fetchone()
    assert row is not None, "a held run has an attempt"
    attempt_start = int(row[0])
    start_byte = attempt_start + printed.start_byte
    piece = {
        **facts,
        "start_byte": start_byte,
        "num_bytes": printed.num_bytes,
        "text": printed.text,
    }
    if conn.execute(_APPEND, piece).fetchone() is None:
        return  # the reply to the first call was lost
    first_end = attempt_start + LOG_FIRST_BYTES
    newest_start = start_byte + printed.num_bytes - LOG_NEWEST_BYTES
    if newest_start > first_end:
        limits = {"first_end": first_end, "newest_start": newest_start}
        conn.execute(_LEAVE_OUT, {**facts, **limits})
    notify(conn, EVENTS, run.run_id)


_AFTER: Final = SQL("""
SELECT {columns} FROM run_logs
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
    AND start_byte > %(after)s - %(piece_bytes)s AND start_byte + num_bytes > %(after)s
ORDER BY start_byte LIMIT %(limit)s
""").format(columns=columns_of(LogPiece))


def page(
    conn: Connection, tenant_id: str, run_id: str, after_byte: int, limit: int
) -> list[LogPiece]:
    """The pieces that end after this byte (0 for all), oldest first."""
    facts = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "after": after_byte,
        "piece_bytes": LOG_PIECE_BYTES,
        "limit": limit,
    }
    with conn.cursor(row_factory=class_row(LogPiece)) as cursor:
        return cursor.execute(_AFTER, facts).fetchall()


_NEWEST: Final = SQL("""
SELECT {columns} FROM (
    SELECT {columns}, sum(num_bytes) OVER (ORDER BY start_byte DESC) - num_bytes AS bytes_after
    FROM run_logs
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
        AND start_byte > %(after)s - %(piece_bytes)s AND start_byte + num_bytes > %(after)s
    ORDER BY start_byte DESC LIMIT %(limit)s
) AS newest
WHERE bytes_after < %(most_bytes)s ORDER BY start_byte
""").format(columns=columns_of(LogPiece))


def newest(conn: Connection, tenant_id: str, run_id: str, after_byte: int) -> list[LogPiece]:
    """The newest pieces that end after this byte, about 256 KiB and 2,000 at most; oldest first."""
    facts = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "after": after_byte,
        "piece_bytes": LOG_PIECE_BYTES,
        "limit": _TAIL_PIECES,
        "most_bytes": _TAIL_BYTES,
    }
    with conn.cursor(row_factory=class_row(LogPiece)) as cursor:
        return cursor.execute(_NEWEST, facts).fetchall()
