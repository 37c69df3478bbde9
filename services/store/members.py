"""The members of a tenant. One who is removed stays as a row, for the keys that name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.access import Role
from services.domain.errors import LastOwnerError, NotFoundError
from services.domain.ids import new_id
from services.store import tenants
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One row of ``members``."""

    member_id: str
    tenant_id: str
    name: str
    role: Role
    created_at: datetime


_CREATE: Final = SQL("""
INSERT INTO members (member_id, tenant_id, name, role)
VALUES (%(member_id)s, %(tenant_id)s, %(name)s, %(role)s) RETURNING {columns}
""").format(columns=columns_of(Member))


def create(conn: Connection, tenant_id: str, *, name: str, role: Role) -> Member:
    """A new member; it needs a key of its own before it can do anything."""
    facts = {"member_id": new_id("mem"), "tenant_id": tenant_id, "name": name, "role": role}
    with conn.cursor(row_factory=class_row(Member)) as cursor:
        member = cursor.execute(_CREATE, facts).fetchone()
    assert member is not None
    return member


_GET: Final = SQL("""
SELECT {columns} FROM members
WHERE tenant_id = %s AND member_id = %s AND removed_at IS NULL
""").format(columns=columns_of(Member))


def get(conn: Connection, tenant_id: str, member_id: str) -> Member:
    """Raises NotFoundError, also where the member was removed."""
    with conn.cursor(row_factory=class_row(Member)) as cursor:
        member = cursor.execute(_GET, (tenant_id, member_id)).fetchone()
    if member is None:
        raise NotFoundError("member", member_id)
    return member


_LIST: Final = SQL("""
SELECT {columns} FROM members
WHERE tenant_id = %(tenant_id)s AND removed_at IS NULL
    AND (%(after)s::text IS NULL OR member_id < %(after)s)
ORDER BY member_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Member))


def list_page(
    conn: Connection, tenant_id: str, limit: int, after: str | None = None
) -> list[Member]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after}
    with conn.cursor(row_factory=class_row(Member)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_CHANGE: Final = """
UPDATE members SET name = coalesce(%(name)s, name), role = coalesce(%(role)s, role)
WHERE tenant_id = %(tenant_id)s AND member_id = %(member_id)s AND removed_at IS NULL
"""


def change(conn: Connection, tenant_id: str, member_id: str, changes: Mapping[str, str]) -> Member:
    """Set the name or the role; what a member's keys may do follows at once.

    Raises NotFoundError, and LastOwnerError where the tenant would have no owner.
    """
    if changes.get("role", "owner") != "owner":
        _check_other_owners(conn, tenant_id, member_id)
    facts = {"name": None, "role": None, **changes}
    conn.execute(_CHANGE, {**facts, "tenant_id": tenant_id, "member_id": member_id})
    return get(conn, tenant_id, member_id)


_REMOVE: Final = """
UPDATE members SET removed_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND member_id = %(member_id)s AND removed_at IS NULL
"""
_REVOKE_KEYS: Final = """
UPDATE api_keys SET revoked_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND member_id = %(member_id)s AND revoked_at IS NULL
"""
_EXISTS: Final = "SELECT FROM members WHERE tenant_id = %(tenant_id)s AND member_id = %(member_id)s"


def remove(conn: Connection, tenant_id: str, member_id: str) -> None:
    """Remove the member and revoke its keys; again does nothing.

    Raises NotFoundError, and LastOwnerError where the tenant would have no owner.
    """
    facts = {"tenant_id": tenant_id, "member_id": member_id}
    if conn.execute(_EXISTS, facts).fetchone() is None:
        raise NotFoundError("member", member_id)
    _check_other_owners(conn, tenant_id, member_id)
    conn.execute(_REMOVE, facts)
    conn.execute(_REVOKE_KEYS, facts)


_IS_LAST_OWNER: Final = """
SELECT bool_or(member_id = %(member_id)s) AND count(*) = 1 FROM members
WHERE tenant_id = %(tenant_id)s AND role = 'owner' AND removed_at IS NULL
"""


def _check_other_owners(conn: Connection, tenant_id: str, member_id: str) -> None:
    """Raise LastOwnerError where this member is the only owner, and keep it so until the commit."""
    tenants.lock(conn, tenant_id)
    row = conn.execute(_IS_LAST_OWNER, {"tenant_id": tenant_id, "member_id": member_id}).fetchone()
    if row is not None and row[0]:
        raise LastOwnerError(
            "This member is the tenant's last owner. Make another member an owner first."
        )
