"""Which API keys are valid at the moment, and what they may do."""

from collections.abc import Sequence
from typing import Any, Final

from psycopg.sql import SQL

from services.domain.access import Actor
from services.store.database import Connection

# Of ``api_keys LEFT JOIN members``. The member's role is read each time: one that was demoted or
# removed may do less at once.
IS_VALID: Final = SQL("""revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND (member_id IS NULL OR (role IS NOT NULL AND removed_at IS NULL))""")
ACTOR_COLUMNS: Final = SQL("key_id, member_id, coalesce(role, 'owner'), scopes")
_OF_ID: Final = SQL("""
SELECT {columns} FROM api_keys LEFT JOIN members USING (tenant_id, member_id)
WHERE tenant_id = %s AND key_id = %s AND {is_valid}
""").format(columns=ACTOR_COLUMNS, is_valid=IS_VALID)


def find_actor(conn: Connection, tenant_id: str, key_id: str) -> Actor | None:
    """What a key may do now; None where it is not valid any more."""
    row = conn.execute(_OF_ID, (tenant_id, key_id)).fetchone()
    return None if row is None else actor_of(tenant_id, row)


def actor_of(tenant_id: str, columns: Sequence[Any]) -> Actor:
    """The actor from ``ACTOR_COLUMNS``."""
    key_id, member_id, role, scopes = columns
    return Actor(
        tenant_id=tenant_id,
        key_id=key_id,
        member_id=member_id,
        role=role,
        listed=None if scopes is None else frozenset(scopes),
    )
