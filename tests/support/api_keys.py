"""API keys for tests, stored with the pepper that the tests' services have."""

from datetime import datetime

from services.store import api_keys
from services.store.database import Connection

KEY_PEPPER = bytes.fromhex("7e" * 32)


def new_api_key(
    conn: Connection,
    tenant_id: str,
    *,
    member_id: str | None = None,
    scopes: list[str] | None = None,
    expires_at: datetime | None = None,
) -> str:
    """The secret of a new key, of the tenant's owner unless a member is named."""
    _, secret = api_keys.create(
        conn,
        tenant_id,
        KEY_PEPPER,
        name="tests",
        member_id=member_id,
        scopes=scopes,
        expires_at=expires_at,
    )
    return secret


def digest(secret: str) -> str:
    """What the database has of this key."""
    return api_keys.digest(KEY_PEPPER, secret)
