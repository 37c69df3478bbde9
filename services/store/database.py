"""The one way to PostgreSQL: short transactions from a pool, and listening for notices."""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool

from services.domain.ledger import LedgerDownError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

WORK: Final = "reverie_work"
"""Channel: something is to be done; no payload."""
EVENTS: Final = "reverie_events"
"""Channel: a run has new events; the payload is its id."""

_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    # A peer that vanished without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c statement_timeout=30s -c idle_in_transaction_session_timeout=60s",
}

_AWAY: Final = (
    psycopg.OperationalError,
    # We stood still in the middle of a transaction, and the server hung up.
    psycopg.errors.IdleInTransactionSessionTimeout,
    # A standby that is not promoted yet, or a primary that was demoted: a failover is under way.
    psycopg.errors.ReadOnlySqlTransaction,
)


class DatabaseDownError(LedgerDownError):
    """The database cannot be reached, or gave up midway: whether a commit took place is unknown.

    Repeat the call if it is idempotent.
    """


class Database:
    """A pool of connections; safe to share among threads."""

    def __init__(self, url: str, max_size: int) -> None:
        """Connects on first use, not here."""
        self._url = url
        self._pool = ConnectionPool(
            url,
            kwargs=_CONNECT,
            min_size=0,
            max_size=max_size,
            timeout=5,
            # Its pauses between tries double, so a long series would sleep past the recovery.
            reconnect_timeout=2,
            max_idle=60,
            check=ConnectionPool.check_connection,
            open=True,
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on any error.

        Raises DatabaseDownError where the database cannot be reached or drops the connection.
        """
        try:
            with self._pool.connection() as conn:
                yield conn
        except _AWAY as error:
            raise DatabaseDownError(type(error).__name__) from error

    def listen(self, channel: str, *, wait_s: float = 1.0) -> Iterator[str | None]:
        """Payloads of notices on ``channel``, over a connection of its own.

        Yields None once listening stands, so that the caller can look at what happened before, and
        again after each ``wait_s`` without a notice. Raises DatabaseDownError; then listen anew.
        """
        try:
            with psycopg.connect(self._url, autocommit=True, **_CONNECT) as conn:
                conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                yield None
                while True:
                    notice = None
                    for notice in conn.notifies(timeout=wait_s, stop_after=1):
                        yield notice.payload
                    if notice is None:
                        conn.execute("SELECT 1")  # the other side may be gone without a word
                        yield None
        except _AWAY as error:
            raise DatabaseDownError(type(error).__name__) from error

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def columns_of(row: type) -> sql.Composed:
    """The fields of a row's dataclass as a list of columns, so that a query gives what it reads."""
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(row))


def seconds(span: timedelta) -> float:
    """For SQL that says ``make_interval(secs => …)``."""
    return span.total_seconds()


def notify(conn: Connection, channel: str, payload: str = "") -> None:
    """Tell the listeners when this transaction commits."""
    conn.execute("SELECT pg_notify(%s, %s)", (channel, payload))
