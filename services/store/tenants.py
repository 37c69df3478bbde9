"""Tenants and their API keys. A key is shown once; the database keeps its SHA-256."""

import hashlib
import secrets
from typing import Final

from services.domain.ids import new_id
from services.store.database import Connection


def digest(plaintext: str) -> str:
    """What the database keeps of an API key."""
    return hashlib.sha256(plaintext.encode()).hexdigest()


_CREATE_TENANT: Final = "INSERT INTO tenants (tenant_id, name) VALUES (%s, %s)"


def create_tenant(conn: Connection, name: str) -> str:
    """A new tenant; returns its id."""
    tenant_id = new_id("ten")
    conn.execute(_CREATE_TENANT, (tenant_id, name))
    return tenant_id


_CREATE_KEY: Final = """
INSERT INTO api_keys (key_id, tenant_id, key_sha256, name) VALUES (%s, %s, %s, %s)
"""


def create_api_key(conn: Connection, tenant_id: str, name: str) -> tuple[str, str]:
    """A new key of 256 random bits; returns its id and the key itself, ``rv_…``."""
    key_id, plaintext = new_id("key"), f"rv_{secrets.token_urlsafe(32)}"
    conn.execute(_CREATE_KEY, (key_id, tenant_id, digest(plaintext), name))
    return key_id, plaintext


_TENANT_OF_KEY: Final = """
SELECT tenant_id FROM api_keys WHERE key_sha256 = %s AND revoked_at IS NULL
"""


def tenant_of_key(conn: Connection, plaintext: str) -> str | None:
    """The tenant of an API key; None for an unknown or revoked key."""
    row = conn.execute(_TENANT_OF_KEY, (digest(plaintext),)).fetchone()
    return None if row is None else str(row[0])


_FIND: Final = "SELECT tenant_id FROM tenants WHERE tenant_id = %(tenant)s OR name = %(tenant)s"
_NAMES: Final = "SELECT tenant_id, name FROM tenants ORDER BY tenant_id DESC LIMIT %s"


def find(conn: Connection, tenant: str) -> list[str]:
    """The ids of the tenants of this id or name; a name need not be unique."""
    return [row[0] for row in conn.execute(_FIND, {"tenant": tenant})]


def newest(conn: Connection, limit: int) -> list[tuple[str, str]]:
    """Id and name of the tenants that were created last."""
    return [(row[0], row[1]) for row in conn.execute(_NAMES, (limit,))]


# Rows that refer to the tenant may be inserted meanwhile.
_LOCK: Final = "SELECT FROM tenants WHERE tenant_id = %s FOR NO KEY UPDATE"


def lock(conn: Connection, tenant_id: str) -> None:
    """Until the commit, nobody else creates a run or a dataset of this tenant."""
    conn.execute(_LOCK, (tenant_id,))


_SET_WEIGHT: Final = "UPDATE tenants SET weight = %s WHERE tenant_id = %s"


def set_weight(conn: Connection, tenant_id: str, weight: float) -> None:
    """Set the tenant's part of the GPU time; above 0."""
    conn.execute(_SET_WEIGHT, (weight, tenant_id))
