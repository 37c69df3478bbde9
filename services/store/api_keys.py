"""API keys of tenants. A key is shown once; the database keeps an HMAC of it.

The HMAC's secret, the pepper, is not in the database, so that nobody can make a valid key by
writing a row.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.api_keys import new_key
from services.domain.errors import (
    InvalidRequestError,
    KeyNotActiveError,
    NotFoundError,
    Problem,
)
from services.domain.ids import new_id
from services.store import members, tenants
from services.store.database import Connection, columns_of, seconds


def digest(pepper: bytes, key: str) -> str:
    """What the database keeps of a key: HMAC-SHA256 of its SHA-256, in hex.

    Keys of older versions were stored as SHA-256, and the migration had no more than that.
    """
    key_sha256 = hashlib.sha256(key.encode()).hexdigest()
    return hmac.new(pepper, key_sha256.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """One row of ``api_keys``, without what its key is checked against."""

    key_id: str
    tenant_id: str
    member_id: str | None
    """None for a key of a version without members, which counts as an owner's."""
    name: str
    scopes: list[str] | None
    """None: all that the member's role has."""
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    last_used_at: datetime | None
    """A minute old at most; None: never used."""
    replaced_by: str | None
    """The key that ``rotate`` made for it; None where it was not rotated."""


_CREATE: Final = SQL("""
INSERT INTO api_keys (key_id, tenant_id, member_id, key_hmac, name, scopes, expires_at)
VALUES (%(key_id)s, %(tenant_id)s,
    coalesce(%(member_id)s, (
        SELECT member_id FROM members
        WHERE tenant_id = %(tenant_id)s AND role = 'owner' AND removed_at IS NULL
        ORDER BY member_id LIMIT 1)),
    %(key_hmac)s, %(name)s, %(scopes)s, %(expires_at)s)
RETURNING {columns}
""").format(columns=columns_of(ApiKey))


def create(
    conn: Connection,
    tenant_id: str,
    pepper: bytes,
    *,
    name: str,
    member_id: str | None = None,
    scopes: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and its secret ``rv_…``.

    Args:
        member_id: for whom it acts; None: for the tenant's first owner.

    Raises NotFoundError for the tenant or the member, and InvalidRequestError where the key would
    have expired already.
    """
    tenants.lock(conn, tenant_id)  # so that it cannot be deleted meanwhile and leave a key
    if member_id is not None:
        members.get(conn, tenant_id, member_id)
    secret = new_key("rv_")
    facts = {
        "key_id": new_id("key"),
        "tenant_id": tenant_id,
        "member_id": member_id,
        "key_hmac": digest(pepper, secret),
        "name": name,
        "scopes": None if scopes is None else list(scopes),
        "expires_at": expires_at,
    }
    with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        key = cursor.execute(_CREATE, facts).fetchone()
    assert key is not None
    if key.expires_at is not None and key.expires_at <= key.created_at:
        now = key.created_at.astimezone(UTC)
        message = f"expires_at is in the past; it is {now:%Y-%m-%dT%H:%M:%SZ} now."
        raise InvalidRequestError(
            [Problem(pointer="/expires_at", code="in_the_past", message=message)]
        )
    return key, secret


_TENANT_OF: Final = """
SELECT tenant_id FROM api_keys
WHERE key_hmac = %s AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""


def tenant_of(conn: Connection, key_hmac: str) -> str | None:
    """The tenant of a key, from its ``digest``; None where it is not valid."""
    row = conn.execute(_TENANT_OF, (key_hmac,)).fetchone()
    return None if row is None else str(row[0])


_TENANT_OF_ID: Final = "SELECT tenant_id FROM api_keys WHERE key_id = %s"


def tenant_of_id(conn: Connection, key_id: str) -> str | None:
    """The tenant of the key with this id, for operators; None where there is no such key."""
    row = conn.execute(_TENANT_OF_ID, (key_id,)).fetchone()
    return None if row is None else str(row[0])


_LIST: Final = SQL("""
SELECT {columns} FROM api_keys
WHERE tenant_id = %(tenant_id)s AND revoked_at IS NULL
    AND (%(after)s::text IS NULL OR key_id < %(after)s)
    AND (%(member_id)s::text IS NULL OR member_id = %(member_id)s)
ORDER BY key_id DESC LIMIT %(limit)s
""").format(columns=columns_of(ApiKey))


def list_page(
    conn: Connection,
    tenant_id: str,
    limit: int,
    after: str | None = None,
    *,
    member_id: str | None = None,
) -> list[ApiKey]:
    """Keys that are not revoked, newest first; of one member, or of all where it is None."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after, "member_id": member_id}
    with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_GET: Final = SQL("""
SELECT {columns} FROM api_keys
WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s AND revoked_at IS NULL
    AND (%(member_id)s::text IS NULL OR member_id = %(member_id)s)
""").format(columns=columns_of(ApiKey))


def get(conn: Connection, tenant_id: str, key_id: str, *, member_id: str | None = None) -> ApiKey:
    """A key that is not revoked, of this member where one is named; raises NotFoundError."""
    facts = {"tenant_id": tenant_id, "key_id": key_id, "member_id": member_id}
    with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        key = cursor.execute(_GET, facts).fetchone()
    if key is None:
        raise NotFoundError("key", key_id)
    return key


_REVOKE: Final = """
UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s
    AND (%(member_id)s::text IS NULL OR member_id = %(member_id)s)
"""


def revoke(conn: Connection, tenant_id: str, key_id: str, *, member_id: str | None = None) -> None:
    """The key stops working with the commit; again does nothing. Raises NotFoundError.

    Args:
        member_id: only a key of this member; None: of any.
    """
    facts = {"tenant_id": tenant_id, "key_id": key_id, "member_id": member_id}
    if conn.execute(_REVOKE, facts).rowcount == 0:
        raise NotFoundError("key", key_id)


# Nobody else rotates or revokes it until the commit.
_LOCK: Final = """
SELECT replaced_by, coalesce(expires_at <= clock_timestamp(), false),
    clock_timestamp() + (expires_at - created_at)
FROM api_keys WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s AND revoked_at IS NULL
FOR NO KEY UPDATE
"""
_REPLACE: Final = """
UPDATE api_keys SET replaced_by = %(replaced_by)s,
    expires_at = least(expires_at, clock_timestamp() + make_interval(secs => %(grace_s)s))
WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s
"""


def rotate(
    conn: Connection,
    tenant_id: str,
    pepper: bytes,
    old: ApiKey,
    *,
    grace: timedelta,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key like the old one, and its secret; the old one expires after the grace time.

    Args:
        expires_at: of the new key; None: it lives as long as the old one was made for.

    Raises NotFoundError, KeyNotActiveError, and InvalidRequestError as ``create`` does.
    """
    tenants.lock(conn, tenant_id)  # before the key, as a deletion of the tenant does
    facts = {"tenant_id": tenant_id, "key_id": old.key_id, "grace_s": seconds(grace)}
    row = conn.execute(_LOCK, facts).fetchone()
    if row is None:
        raise NotFoundError("key", old.key_id)
    replaced_by, has_expired, as_long = row
    if replaced_by is not None:
        raise KeyNotActiveError(f"The key was rotated before: {replaced_by} is the new one.")
    if has_expired:
        raise KeyNotActiveError("The key has expired. Create a new one.")
    key, secret = create(
        conn,
        tenant_id,
        pepper,
        name=old.name,
        member_id=old.member_id,
        scopes=old.scopes,
        expires_at=expires_at or as_long,
    )
    conn.execute(_REPLACE, {**facts, "replaced_by": key.key_id})
    return key, secret
