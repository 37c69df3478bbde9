"""Tenants: the customers of the service, whose rows nobody else sees."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.errors import IdempotencyMismatchError, NotFoundError
from services.domain.ids import new_id
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """One row of ``tenants``."""

    tenant_id: str
    name: str
    weight: float
    """Its part of the GPU time, next to the weights of others."""
    created_at: datetime


_CREATE: Final = """
WITH tenant AS (
    INSERT INTO tenants (tenant_id, name, request_key)
    VALUES (%(tenant_id)s, %(name)s, %(request_key)s)
    ON CONFLICT (request_key) DO NOTHING RETURNING tenant_id
)
INSERT INTO members (member_id, tenant_id, name, role)
SELECT %(member_id)s, tenant_id, %(name)s, 'owner' FROM tenant
"""


def create_tenant(conn: Connection, name: str) -> str:
    """A new tenant with one owner of the same name; returns the tenant's id."""
    tenant_id = new_id("ten")
    _create(conn, tenant_id, name, request_key=None)
    return tenant_id


_OF_REQUEST: Final = "SELECT tenant_id, name FROM tenants WHERE request_key = %s"


def create_once(conn: Connection, name: str, request_key: str | None) -> tuple[str, bool]:
    """As ``create_tenant``, once for each ``request_key`` that is given; also whether it is new.

    Raises IdempotencyMismatchError where the key made a tenant of another name.
    """
    tenant_id = new_id("ten")
    if _create(conn, tenant_id, name, request_key=request_key):
        return tenant_id, True
    row = conn.execute(_OF_REQUEST, (request_key,)).fetchone()
    assert row is not None
    if row[1] != name:
        raise IdempotencyMismatchError(f"key {request_key} made a tenant of another name")
    return str(row[0]), False


def _create(conn: Connection, tenant_id: str, name: str, *, request_key: str | None) -> bool:
    facts = {
        "tenant_id": tenant_id,
        "member_id": new_id("mem"),
        "name": name,
        "request_key": request_key,
    }
    return conn.execute(_CREATE, facts).rowcount == 1


_GET: Final = SQL("""
SELECT {columns} FROM tenants WHERE tenant_id = %s AND deleted_at IS NULL
""").format(columns=columns_of(Tenant))


def get(conn: Connection, tenant_id: str) -> Tenant:
    """Raises NotFoundError, also where the tenant is deleted."""
    with conn.cursor(row_factory=class_row(Tenant)) as cursor:
        tenant = cursor.execute(_GET, (tenant_id,)).fetchone()
    if tenant is None:
        raise NotFoundError("tenant", tenant_id)
    return tenant


_LIST: Final = SQL("""
SELECT {columns} FROM tenants
WHERE deleted_at IS NULL AND (%(after)s::text IS NULL OR tenant_id < %(after)s)
ORDER BY tenant_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Tenant))


def list_page(conn: Connection, limit: int, after: str | None = None) -> list[Tenant]:
    """All tenants, newest first; ``after`` is the last id of the page before."""
    with conn.cursor(row_factory=class_row(Tenant)) as cursor:
        return cursor.execute(_LIST, {"limit": limit, "after": after}).fetchall()


_FIND: Final = """
SELECT tenant_id FROM tenants
WHERE (tenant_id = %(tenant)s OR name = %(tenant)s) AND deleted_at IS NULL
"""
_NAMES: Final = """
SELECT tenant_id, name FROM tenants WHERE deleted_at IS NULL ORDER BY tenant_id DESC LIMIT %s
"""


def find(conn: Connection, tenant: str) -> list[str]:
    """The ids of the tenants of this id or name; a name need not be unique."""
    return [row[0] for row in conn.execute(_FIND, {"tenant": tenant})]


def newest(conn: Connection, limit: int) -> list[tuple[str, str]]:
    """Id and name of the tenants that were created last."""
    return [(row[0], row[1]) for row in conn.execute(_NAMES, (limit,))]


# Rows that refer to the tenant may be inserted meanwhile.
_LOCK: Final = """
SELECT deleted_at IS NOT NULL FROM tenants WHERE tenant_id = %s FOR NO KEY UPDATE
"""


def lock(conn: Connection, tenant_id: str) -> None:
    """Until the commit, nobody else creates a run or a dataset of this tenant, or deletes it.

    Raises NotFoundError where it is being deleted.
    """
    if lock_also_deleted(conn, tenant_id):
        raise NotFoundError("tenant", tenant_id)


def lock_also_deleted(conn: Connection, tenant_id: str) -> bool:
    """As ``lock``, also while the tenant is being deleted; returns whether it is.

    Raises NotFoundError where there is no such tenant.
    """
    row = conn.execute(_LOCK, (tenant_id,)).fetchone()
    if row is None:
        raise NotFoundError("tenant", tenant_id)
    return bool(row[0])


_SET_WEIGHT: Final = "UPDATE tenants SET weight = %s WHERE tenant_id = %s"


def set_weight(conn: Connection, tenant_id: str, weight: float) -> None:
    """Set the tenant's part of the GPU time; above 0."""
    conn.execute(_SET_WEIGHT, (weight, tenant_id))


_SET_NAME: Final = "UPDATE tenants SET name = %s WHERE tenant_id = %s"


def set_name(conn: Connection, tenant_id: str, name: str) -> None:
    """Set what operators call the tenant; it need not be unique."""
    conn.execute(_SET_NAME, (name, tenant_id))
