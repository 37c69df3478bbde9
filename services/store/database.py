"""Access to PostgreSQL: short transactions on pooled connections, and LISTEN/NOTIFY."""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool

from services.domain.ledger import LedgerDownError
from services.metrics.dependencies import database_errors

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

WORK: Final = "reverie_work"
"""NOTIFY channel without payload: some row is due for the dispatcher."""
EVENTS: Final = "reverie_events"
"""NOTIFY channel: a run has new events; the payload is the run's id."""

_STATEMENT_TIMEOUT: Final = timedelta(seconds=30)
_IDLE_TIMEOUT: Final = timedelta(seconds=60)
_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    # A peer that vanished without closing the connection is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

_DOWN: Final = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
    psycopg.errors.DatabaseDropped,
    psycopg.errors.IdleSessionTimeout,
    psycopg.errors.TooManyConnections,
    psycopg.errors.DiskFull,
    # This process paused in the middle of a transaction, and the server closed the connection.
    psycopg.errors.IdleInTransactionSessionTimeout,
    # A standby that is not promoted yet, or a primary that was demoted: a failover is under way.
    psycopg.errors.ReadOnlySqlTransaction,
)
_BUSY: Final = (
    psycopg.errors.QueryCanceled,  # statement_timeout
    psycopg.errors.LockNotAvailable,  # lock_timeout
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.OutOfMemory,
)


class DatabaseDownError(LedgerDownError):
    """The database cannot be reached, or the connection was lost: the commit may have happened.

    Repeat the call if it is idempotent.
    """


class DatabaseBusyError(LedgerDownError):
    """The database aborted this transaction: lock or statement timeout, or out of memory.

    Nothing of the transaction took effect. Others may succeed, and so may this one later.
    """


class DocumentTooLargeError(Exception):
    """A value is larger than the database can store, such as a jsonb of 256 MB; do not retry."""


TRANSIENT_ERRORS: Final = (DatabaseDownError, DatabaseBusyError)
"""The same call may succeed later."""


class Database:
    """A pool of connections; safe to share among threads."""

    def __init__(
        self,
        url: str,
        max_size: int,
        *,
        statement_timeout: timedelta = _STATEMENT_TIMEOUT,
        lock_timeout: timedelta | None = None,
        idle_timeout: timedelta = _IDLE_TIMEOUT,
        role: str | None = None,
    ) -> None:
        """Connects on first use, not here.

        Args:
            max_size: connections at once.
            statement_timeout: a statement that takes longer raises DatabaseBusyError.
            lock_timeout: so does one that waits longer for a lock; None: the statement's timeout.
            idle_timeout: the server ends a transaction whose client is silent for so long, and
                with it the locks of a process that was cut off.
            role: what the connections run as; None: the user of the URL.
        """
        self._url = url
        options = _options(
            role,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            idle_in_transaction_session_timeout=idle_timeout,
        )
        self._connect = {**_CONNECT, "options": options}
        self._pool = ConnectionPool(
            url,
            kwargs=self._connect,
            min_size=0,
            max_size=max_size,
            timeout=5,
            # The pool doubles its pauses, so that a long series would sleep long past the recovery.
            reconnect_timeout=2,
            max_idle=60,
            check=ConnectionPool.check_connection,
            open=True,
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on any error.

        Raises DatabaseDownError, DatabaseBusyError and DocumentTooLargeError. Other errors of a
        statement are bugs or corrupt rows; psycopg's exception is raised unchanged.
        """
        try:
            with self._pool.connection() as conn:
                yield conn
        except psycopg.Error as error:
            raise _translated(error) from error

    @contextlib.contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is a transaction of its own; raises as above.

        It takes fewer round trips than a transaction of one statement, and holds no lock while
        this process is paused.
        """
        with self.transaction() as conn:
            conn.autocommit = True
            try:
                yield conn
            finally:
                if not conn.closed:
                    conn.autocommit = False

    def listen(self, channel: str, *, wait_s: float = 1.0) -> Iterator[str | None]:
        """Payloads of the notifications on ``channel``, over a separate connection.

        The first None means that it listens now: read what happened before. Another None follows
        each ``wait_s`` without a notification. Raises DatabaseDownError; then call it again.
        """
        try:
            with psycopg.connect(self._url, autocommit=True, **self._connect) as conn:
                conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                yield None
                while True:
                    notice = None
                    for notice in conn.notifies(timeout=wait_s, stop_after=1):
                        yield notice.payload
                    if notice is None:
                        conn.execute("SELECT 1")  # the peer may have vanished
                        yield None
        except psycopg.OperationalError as error:
            # On any error the caller must call listen() again.
            raise DatabaseDownError(type(error).__name__) from error

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def _options(role: str | None, **timeouts: timedelta | None) -> str:
    """Connection options for the server: milliseconds; 0, for None, is no limit."""
    settings = {
        name: str(0 if timeout is None else round(timeout.total_seconds() * 1000))
        for name, timeout in timeouts.items()
    }
    if role is not None:
        settings["role"] = role
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _translated(error: psycopg.Error) -> Exception:
    """The store's own exception for a psycopg error; ``error`` itself where there is none."""
    name = type(error).__name__
    # No SQLSTATE: the server did not answer, or the pool had no free connection.
    # Class 08 is "connection exception".
    state = error.sqlstate or "08"
    is_connection = isinstance(error, psycopg.OperationalError) and state.startswith("08")
    if is_connection or isinstance(error, _DOWN):
        database_errors.labels(kind="down").inc()
        return DatabaseDownError(name)
    if isinstance(error, _BUSY):
        database_errors.labels(kind="busy").inc()
        return DatabaseBusyError(name)
    if isinstance(error, psycopg.errors.ProgramLimitExceeded):
        database_errors.labels(kind="too_large").inc()
        return DocumentTooLargeError(str(error).strip())
    database_errors.labels(kind="unexpected").inc()
    return error


def columns_of(row: type) -> sql.Composed:
    """The column list of a query: the field names of the dataclass for its rows."""
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(row))


def seconds(span: timedelta) -> float:
    """The parameter of ``make_interval(secs => …)``."""
    return span.total_seconds()


def notify(conn: Connection, channel: str, payload: str = "") -> None:
    """Notify the channel's listeners when this transaction commits."""
    conn.execute("SELECT pg_notify(%s, %s)", (channel, payload))
