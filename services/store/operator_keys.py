"""Keys of the operators: the people who run the service. They belong to no tenant."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.api_keys import new_key
from services.domain.errors import NotFoundError
from services.domain.ids import new_id
from services.store import api_keys
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorKey:
    """One row of ``operator_keys``, without what its key is checked against."""

    key_id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    last_used_at: datetime | None
    """A minute old at most; None: never used."""


_CREATE: Final = SQL("""
INSERT INTO operator_keys (key_id, name, key_hmac, expires_at)
VALUES (%(key_id)s, %(name)s, %(key_hmac)s, %(expires_at)s) RETURNING {columns}
""").format(columns=columns_of(OperatorKey))


def create(
    conn: Connection, pepper: bytes, *, name: str, expires_at: datetime | None = None
) -> tuple[OperatorKey, str]:
    """A new key, and its secret ``rvo_…``."""
    secret = new_key("rvo_")
    facts = {
        "key_id": new_id("key"),
        "name": name,
        "key_hmac": api_keys.digest(pepper, secret),
        "expires_at": expires_at,
    }
    with conn.cursor(row_factory=class_row(OperatorKey)) as cursor:
        key = cursor.execute(_CREATE, facts).fetchone()
    assert key is not None
    return key, secret


_ALL: Final = SQL("""
SELECT {columns} FROM operator_keys WHERE revoked_at IS NULL ORDER BY key_id DESC
""").format(columns=columns_of(OperatorKey))


def all_keys(conn: Connection) -> list[OperatorKey]:
    """Those that are not revoked, newest first; there are few."""
    with conn.cursor(row_factory=class_row(OperatorKey)) as cursor:
        return cursor.execute(_ALL).fetchall()


_IS_VALID: Final = """
SELECT true FROM operator_keys
WHERE key_hmac = %s AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""


def is_valid(conn: Connection, key_hmac: str) -> bool:
    """Whether there is a key with this ``api_keys.digest`` that works now."""
    return conn.execute(_IS_VALID, (key_hmac,)).fetchone() is not None


_REVOKE: Final = """
UPDATE operator_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE key_id = %s
"""


def revoke(conn: Connection, key_id: str) -> None:
    """The key stops working with the commit; again does nothing. Raises NotFoundError."""
    if conn.execute(_REVOKE, (key_id,)).rowcount == 0:
        raise NotFoundError("operator key", key_id)
