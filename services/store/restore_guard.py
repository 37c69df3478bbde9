"""Notices that this database was restored from a backup.

A restored database may be older than the object store: it does not know the newest checkpoints, and
its fences are lower than those of attempts that still run. So it is *restored* until its runs are
reconciled (``restored_runs``). Meanwhile no run can be claimed and no object is deleted.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection

# Changes with every way to restore: a new server, recovery to a point in time or a failover (the
# timeline), a dump that is loaded into another database, or into this one (the table's oid). A copy
# of the server's disk changes nothing here: ``generation`` finds it.
_IDENTITY: Final = SQL("""
concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
    CASE WHEN pg_is_in_recovery() THEN 'standby'
        ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    'runs'::regclass::oid)
""")
IS_RESTORED: Final = SQL("""
EXISTS (SELECT FROM restore_guard WHERE identity <> {identity})
""").format(identity=_IDENTITY)
"""SQL condition: the database was restored and its runs are not reconciled."""

_READ: Final = SQL("SELECT {condition}").format(condition=IS_RESTORED)


def is_restored(conn: Connection) -> bool:
    """Whether the database was restored and its runs are not reconciled."""
    return conn.execute(_READ).fetchone() == (True,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """The one row that tells a restored database from the original."""

    service_id: str
    """Names the marker in the object store; several services may share a store."""
    generation: int
    """Raised every minute, here first and then in the marker: so a marker with a larger number
    means that this database is older than the objects."""
    is_restored: bool


_CREATE: Final = SQL("""
INSERT INTO restore_guard (service_id, identity) VALUES (%s, {identity}) ON CONFLICT DO NOTHING
""").format(identity=_IDENTITY)
_LOCK: Final = SQL("""
SELECT service_id, generation, identity <> {identity} AS is_restored FROM restore_guard FOR UPDATE
""").format(identity=_IDENTITY)


def lock_guard(conn: Connection) -> Guard:
    """The guard, locked; a new database gets one with a new ``service_id``."""
    conn.execute(_CREATE, (secrets.token_hex(16),))
    with conn.cursor(row_factory=class_row(Guard)) as cursor:
        guard = cursor.execute(_LOCK).fetchone()
    assert guard is not None
    return guard


_ADVANCE: Final = "UPDATE restore_guard SET generation = generation + 1 RETURNING generation"


def advance(conn: Connection) -> int:
    """Raise the generation and return it; to be written to the marker after the commit."""
    row = conn.execute(_ADVANCE).fetchone()
    assert row is not None
    return int(row[0])


_DECLARE: Final = "UPDATE restore_guard SET identity = 'restored'"


def declare_restored(conn: Connection) -> None:
    """Treat the database as restored, until ``end``."""
    conn.execute(_DECLARE)


_END: Final = SQL("""
UPDATE restore_guard SET identity = {identity}, generation = greatest(generation, %s)
""").format(identity=_IDENTITY)


def end(conn: Connection, generation: int) -> None:
    """All runs are reconciled; ``generation`` is the marker's."""
    conn.execute(_END, (generation,))
